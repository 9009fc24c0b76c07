"""Cells: modules `cell(z, x)` that map a state and a condition to the next state or a velocity.

A cell may define more methods. `condition(x)` returns the tensors, batch first, with which
`cell(z, *condition)` is iterated; it is called once per solve, so what depends on x alone is
computed there once and a dropout mask drawn there stays the same. `initial(x)` returns the start.
Without them the condition is x and the start zero, of x's shape.

It may also define `equation(condition)`, which returns the `Equilibrium` that is solved, with that
condition. It is called once per solve, so what depends on the parameters alone is computed there
once (gradients reach them through it), and the problem can offer the structure that some solvers
need: `ContractiveCell` and `MonotoneCell` return a `MonotoneInclusion`. Without it the equation is
z = cell(z, *condition).

A class attribute `rowwise = True` promises that row i of the output depends on row i of the inputs
alone, and that `forward` draws no random numbers and writes into none of its arguments: a solve is
then spared the evaluation that checks it (`Solution.checks`) and a copy of its inputs.
"""

from .bounds import Bounds, error_bound
from .conv import ConvCell
from .dense import DenseCell
from .dropout import dropout_mask
from .field import ConvField
from .inclusion import ContractiveCell, FixedCell, InclusionCell, MonotoneCell
from .norm import group_norm

__all__ = [
    "Bounds",
    "ContractiveCell",
    "ConvCell",
    "ConvField",
    "DenseCell",
    "FixedCell",
    "InclusionCell",
    "MonotoneCell",
    "dropout_mask",
    "error_bound",
    "group_norm",
]
