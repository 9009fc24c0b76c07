"""What every gradient rule is."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from ..problem import Equilibrium, InitialValue
from ..solution import Solution, V
from ..solver import Solver

P = TypeVar("P", Equilibrium, InitialValue)


class Gradient(Protocol[P]):
    """Solve an equation and attach a gradient to the answer.

    The rules are frozen dataclasses with one method. Where autograd is off they only solve.
    """

    def apply(
        self, problem: P, solver: Solver[P, Any], z0: V | Solution[V], *, record: bool = False
    ) -> Solution[V]:
        """Return the solution, its `value` differentiable in the condition and parameters."""
        ...
