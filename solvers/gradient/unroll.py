"""Backpropagation through the solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ..driver import run
from ..packing import pack
from ..problem import Equilibrium, InitialValue
from ..solution import Solution, V
from ..solver import Solver
from ..transforms import uncompiled
from .graph import tied_to_nothing

P = TypeVar("P", Equilibrium, InitialValue)


@dataclass(frozen=True)
class Unroll:
    """Differentiate every step that the solver took.

    The exact gradient of what was computed, at memory that grows with the steps.

    Raises:
        SolveError: a sample became non-finite on the way, even if another solver of a ladder went
            on to solve it; its steps would make the gradient of every shared
            parameter NaN, even with its loss masked. `Implicit` and `Phantom` stay finite.
        ValueError: the method is not differentiable (scipy_solver).
    """

    @uncompiled
    def apply(
        self, problem: P, solver: Solver[P, Any], z0: V | Solution[V], *, record: bool = False
    ) -> Solution[V]:
        """Return the solution with the gradient of all steps attached to its value."""
        if torch.is_grad_enabled() and getattr(solver, "method", None) == "scipy_solver":
            raise ValueError("scipy_solver is not differentiable; use Adjoint() with it.")
        packed, start, unpack = pack(problem, z0)
        found = run(packed, solver, start, record=record)
        if torch.is_grad_enabled() and not bool(found.converged.any()):  # it may be all constants
            found = replace(found, value=tied_to_nothing(found.value, packed, start))
        return unpack(found)
