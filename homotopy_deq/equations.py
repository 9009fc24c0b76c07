"""Which equation a cell poses, and which kind a solver answers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from solvers import Equilibrium, InitialValue, Solver


def equation_of(cell: nn.Module, condition: tuple[Tensor, ...]) -> Equilibrium:
    """Return the equation z = f(z, *condition) of one solve: the cell's own, where it has one."""
    make: Callable[[tuple[Tensor, ...]], Equilibrium] | None = getattr(cell, "equation", None)
    if not callable(make):
        return Equilibrium(cell, condition)
    if torch.is_inference_mode_enabled():  # no graph may hold what is computed under it
        with torch.inference_mode(False), torch.no_grad():
            return make(condition)
    return make(condition)


def answered_by(solver: object) -> type[Equilibrium] | type[InitialValue]:
    """Return the kind of equation that a solver answers, or raise TypeError if it is none."""
    if not isinstance(solver, Solver):
        raise TypeError(f"solver must be a Solver such as Anderson() or ODE(); got {solver!r}.")
    return solver.answers


def check_answers(solver: object, wanted: type, instead: str) -> None:
    """Raise TypeError unless a solver answers the kind of equation that a layer poses."""
    if answered_by(solver) is not wanted:
        raise TypeError(
            f"{type(solver).__name__} answers an {answered_by(solver).__name__}, where an "
            f"{wanted.__name__} is solved. Use {instead}, or another solver."
        )
