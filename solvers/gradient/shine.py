"""The inverse Jacobian that Broyden's method ends with, used again in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..broyden import Broyden, BroydenState, apply
from ..problem import Equilibrium
from ..solution import Solution, V
from ..solver import Solver, named
from ..transforms import uncompiled
from .function import attach
from .gradient import RootGradient


@dataclass(frozen=True)
class SHINE(RootGradient):
    """Differentiate the equation at its root by the inverse Jacobian that Broyden() estimated.

    Its factors H approximate the inverse of J - I along the steps that were taken, so that

        u = -H^T v    in the place of    u = J^T u + v,

    the equation that `Implicit` solves: no product with J, and a gradient that is inexact, the
    more so the fewer steps there were. With a `solver`, that equation is solved from there, and
    the gradient is as exact as that of `Implicit`, to its tolerance.

    Arguments:
        solver: None, or what solves the linear equation from -H^T v.

    Raises:
        TypeError: another solver than Broyden, whose states hold no such factors.
        ValueError: a solution without states is to be differentiated.

    References:
        Z. Ramzi et al. (2022), SHINE: sharing the inverse estimate from the forward pass for
        bi-level optimization and implicit models.
    """

    reuses: ClassVar[bool] = True

    solver: Solver[Equilibrium, Any] | None = None

    def __post_init__(self) -> None:
        given = self.solver
        if given is not None and not (
            isinstance(given, Solver) and issubclass(Equilibrium, given.answers)
        ):
            raise TypeError(
                "SHINE refines u = J^T u + v by a solver of an Equilibrium such as Anderson(), or "
                f"by none; got {named(given)}."
            )

    @uncompiled
    def apply(
        self,
        problem: Equilibrium,
        solver: Solver[Equilibrium, Any],
        z0: V | Solution[V],
        *,
        record: bool = False,
    ) -> Solution[V]:
        """Return the solution of `solve`, with the gradient attached."""
        if isinstance(problem, Equilibrium) and (fault := self.misfit(solver)) is not None:
            raise fault
        return super().apply(problem, solver, z0, record=record)

    def misfit(self, solver: Solver[Any, Any]) -> Exception | None:
        """Return why there are no factors to reuse of a solver, or None."""
        if isinstance(solver, Broyden):
            return None
        return super().misfit(solver) or TypeError(
            "SHINE reuses the inverse Jacobian that Broyden() ends with; got "
            f"{named(solver)}. Use Implicit() with it."
        )

    def at(self, problem: Equilibrium, z: Tensor) -> Tensor:
        return attach(problem, z, self.solver)

    def knowing(
        self, problem: Equilibrium, z: Tensor, solution: Solution[Any], rows: Tensor | None
    ) -> Tensor:
        left, right = _factors(solution, z)
        if rows is not None:
            left, right = left.index_select(0, rows), right.index_select(0, rows)

        def guess(v: Tensor) -> Tensor:
            return -apply(right, left, v.flatten(1)).view_as(v)

        return attach(problem, z, self.solver, guess=guess)


def _factors(solution: Solution[Any], z: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factors of all samples, (B, m, n), m updates at most."""
    states = solution.states
    if not states and len(z):
        raise ValueError(
            "SHINE needs the solver's last states: solve(..., Broyden(), ..., keep_states=True)."
        )
    if not all(isinstance(state, BroydenState) for _, state in states):
        raise TypeError("SHINE needs the last states of Broyden(); got those of another solver.")
    batch = sum(len(index) for index, _ in states)
    shape = batch, max((state.count for _, state in states), default=0), z.shape[1:].numel()
    left, right = z.new_zeros(2, *shape).unbind()
    for index, state in states:
        left[index, : state.count] = state.left[:, : state.count]
        right[index, : state.count] = state.right[:, : state.count]
    return left, right
