"""Which equation a cell poses, and which kind a solver answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from solvers import Equilibrium, InitialValue, Solver
from solvers.solver import named

from .twin import held


def equation_of(
    cell: nn.Module, condition: tuple[Tensor, ...], *, coupled: bool = False
) -> Equilibrium:
    """Return the equation z = f(z, *condition) of one solve: the cell's own, where it has one.

    Arguments:
        cell: what is iterated.
        condition: what it receives beside the state.
        coupled: whether the rows are one system, see `Equilibrium`.
    """
    cell = held(cell)
    make: Callable[[tuple[Tensor, ...]], Equilibrium] | None = getattr(cell, "equation", None)
    if not callable(make):
        return Equilibrium(
            cell, condition, coupled=coupled, rowwise=not coupled and declares_rowwise(cell)
        )
    if torch.is_inference_mode_enabled():  # no graph may hold what is computed under it
        with torch.inference_mode(False), torch.no_grad():
            equation = make(condition)
    else:
        equation = make(condition)
    return replace(equation, coupled=True, rowwise=False) if coupled else equation


def declares_rowwise(cell: nn.Module) -> bool:
    """Return whether a cell promises that its rows are independent and that it draws nothing.

    The promise is a class attribute `rowwise = True` beside `forward`: a subclass with another
    forward does not inherit it, and a BatchNorm that was put into the cell breaks it.
    """
    for kind in type(cell).__mro__:
        if "rowwise" in vars(kind):
            return bool(cell.rowwise) and not any(
                isinstance(module, _BatchNorm) for module in cell.modules()
            )
        if "forward" in vars(kind):
            return False
    return False


def answered_by(solver: object) -> type[Equilibrium] | type[InitialValue]:
    """Return the kind of equation that a solver answers, or raise TypeError if it is none."""
    if not isinstance(solver, Solver):
        raise TypeError(
            f"solver must be a Solver such as Anderson() or ODE(); got {named(solver)}."
        )
    return solver.answers


def check_answers(solver: object, wanted: type, instead: str) -> None:
    """Raise TypeError unless a solver answers the kind of equation that a layer poses."""
    if answered_by(solver) is not wanted:
        raise TypeError(
            f"{type(solver).__name__} answers an {answered_by(solver).__name__}, where an "
            f"{wanted.__name__} is solved. Use {instead}, or another solver."
        )
