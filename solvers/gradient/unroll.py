"""Backpropagation through the solver."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from ..driver import run
from ..ode import ODE
from ..packing import pack
from ..problem import Equilibrium, InitialValue
from ..solution import Solution, V
from ..solver import Solver
from ..transforms import uncompiled
from .graph import tied_to_nothing
from .segments import Segments

P = TypeVar("P", Equilibrium, InitialValue)


@dataclass(frozen=True)
class Unroll:
    """Differentiate every step that the solver took.

    The exact gradient of what was computed, at memory that grows with the steps. With
    `checkpoint=k` a backward pass takes k of them again at a time, to the same bits: n steps then
    need the memory of k steps and n / k states, least at k near the root of n, for one solve more.

    Arguments:
        checkpoint: steps that are taken again at a time; by default all are kept. A step of a
            ladder (`Then`) is a whole solve.

    Raises:
        SolveError: a sample became non-finite on the way, even if another solver of a ladder went
            on to solve it; its steps would make the gradient of every shared
            parameter NaN, even with its loss masked. `Implicit` and `Phantom` stay finite.
        ValueError: the method is not differentiable (scipy_solver), or takes its way as one step
            (`ODE`) under `checkpoint`.
        RuntimeError: in a backward pass under `checkpoint`, the map does not give again what it
            gave, or its parameters were changed.

    References:
        A. Griewank, A. Walther (2000), Revolve: an implementation of checkpointing.
        T. Chen, B. Xu, C. Zhang, C. Guestrin (2016), Training deep nets with sublinear memory cost.
    """

    checkpoint: int | None = None

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.checkpoint < 1:
            raise ValueError(f"checkpoint must be at least 1 step; got {self.checkpoint}.")

    @uncompiled
    def apply(
        self, problem: P, solver: Solver[P, Any], z0: V | Solution[V], *, record: bool = False
    ) -> Solution[V]:
        """Return the solution with the gradient of all steps attached to its value."""
        if torch.is_grad_enabled() and getattr(solver, "method", None) == "scipy_solver":
            raise ValueError("scipy_solver is not differentiable; use Adjoint() with it.")
        take = None
        if torch.is_grad_enabled() and self.checkpoint is not None:
            if isinstance(solver, ODE):
                raise ValueError(
                    "Unroll(checkpoint=...) takes some steps again at a time, and ODE() takes all "
                    "as one. Integrate with RungeKutta(), or use Adjoint()."
                )
            take = Segments(self.checkpoint)
        packed, start, unpack = pack(problem, z0)
        found = run(packed, solver, start, record=record, take=take)
        if torch.is_grad_enabled() and not bool(found.converged.any()):  # it may be all constants
            found = replace(found, value=tied_to_nothing(found.value, packed, start))
        return unpack(found)
