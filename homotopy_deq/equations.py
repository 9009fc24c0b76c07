"""Which equation a cell poses, and which kind a solver answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from solvers import Equilibrium, InitialValue, MonotoneInclusion, Solver
from solvers.guard import Guard
from solvers.norms import relative
from solvers.solver import named

from .cells.cell import hook
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
    keep_parametrized(cell)
    make = hook(cell, "equation")
    if make is None:
        return Equilibrium(
            cell, condition, coupled=coupled, rowwise=not coupled and declares_rowwise(cell)
        )
    equation: object
    if torch.is_inference_mode_enabled():  # no graph may hold what is computed under it
        with torch.inference_mode(False), torch.no_grad():
            equation = make(condition)
    else:
        equation = make(condition)
    if not isinstance(equation, Equilibrium):
        raise TypeError(
            f"equation(condition) of {type(cell).__name__} must return an Equilibrium; got "
            f"{named(equation)}."
        )
    return replace(equation, coupled=True, rowwise=False) if coupled else equation


def keep_parametrized(cell: nn.Module) -> None:
    """Compute the weights that `parametrize.cached()` keeps with their graph, where it is on.

    It keeps what is computed first, and a solve has no graph: its weights would get no gradient.
    """
    if not (torch.is_grad_enabled() and getattr(parametrize, "_cache_enabled", False)):
        return
    for module in cell.modules():
        if parametrize.is_parametrized(module):
            for name in cast("nn.ModuleDict", module.parametrizations):
                getattr(module, name)


def flow_of(equation: Equilibrium, t0: float, t1: float, rest_point: bool) -> InitialValue:
    """Return the flow of an equation's map: dz/dt = f(z) - z with a rest point, f(z) without.

    That of a cell that changes in time is its own `velocity`.
    """
    velocity = hook(equation.map, "velocity") if isinstance(equation.map, nn.Module) else None
    f = Guard(equation.map, trusted=equation.rowwise)  # f(z) - z needs z as it was

    def field(t: Tensor, z: Any, *condition: Tensor) -> Any:
        if not isinstance(z, tuple):
            return f(z, *condition) - z if rest_point else f(z, *condition)
        image = equation.map(tuple(part.clone() for part in z), *condition)
        if not rest_point:
            return image
        return tuple(part - of_z for part, of_z in zip(image, z, strict=True))

    f_of_t = velocity or field
    coupled, rowwise = equation.coupled, equation.rowwise
    return InitialValue(f_of_t, t0, t1, equation.condition, coupled=coupled, rowwise=rowwise)


def rest_residual(flow: InitialValue, z: Any) -> Tensor:
    """Return ||f(z) - z|| / ||f(z)|| of a flow dz/dt = f(z) - z, (B,), at a tensor or a tuple."""
    with torch.no_grad():
        slope = flow.field(torch.zeros(()), z, *flow.inputs)
    slope, at = (
        torch.cat([part.flatten(1) for part in (x if isinstance(x, tuple) else (x,))], 1).detach()
        for x in (slope, z)
    )
    return relative(slope, slope + at)


def restless(solver: Solver[Any, Any]) -> TypeError:
    """Return why a solver of equilibria has nothing to find on a flow without a rest point."""
    return TypeError(
        f"{type(solver).__name__} finds equilibria, and dz/dt = f(z; x) (rest_point=False) nears "
        "none: nothing is at rest at z(1), where the root mean square of a field that ends in a "
        "normalisation is about 1. Train with rest_point=True, which integrates dz/dt = "
        "f(z; x) - z, or use an ODE solver."
    )


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


def posed_by(cell: nn.Module) -> type[Equilibrium]:
    """Return the kind of equation that a cell says it poses.

    One with an `equation` of its own says so in what that is annotated to return. Where it is not
    annotated, any structure may come: whether a solver answers it is seen at the first solve.
    """
    if hook(cell, "equation") is None:
        return Equilibrium
    try:
        said = get_type_hints(cell.equation).get("return", MonotoneInclusion)
    except (NameError, TypeError):
        return MonotoneInclusion
    return said if isinstance(said, type) and issubclass(said, Equilibrium) else Equilibrium
