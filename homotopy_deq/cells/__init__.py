"""Cells: modules `cell(z, x)` that map a state and a condition to the next state or a velocity.

A cell may define two more methods. `condition(x)` returns the tensors, batch first, with which
`cell(z, *condition)` is iterated; it is called once per solve, so what depends on x alone is
computed there once and a dropout mask drawn there stays the same. `initial(x)` returns the start.
Without them the condition is x and the start zero, of x's shape.
"""

from .conv import ConvCell
from .dense import DenseCell
from .dropout import dropout_mask
from .field import ConvField
from .norm import group_norm

__all__ = ["ConvCell", "ConvField", "DenseCell", "dropout_mask", "group_norm"]
