"""The old `polish=`: what took the end of a flow to the root."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from solvers import (
    ODE,
    Equilibrium,
    Flow,
    Implicit,
    InitialValue,
    MonotoneInclusion,
    Solver,
    Then,
    Unroll,
)
from solvers.caller import warn_deprecated
from solvers.driver import check_answers

if TYPE_CHECKING:
    from .layers import FlowLayer, Layer


def polished(integrator: Solver[InitialValue, Any], polish: Solver[Equilibrium, Any]) -> Then:
    """Return the solver that stands for a flow and its polish, and say what to write."""
    check_answers(integrator, InitialValue, "this solver without polish")
    check_answers(polish, MonotoneInclusion)
    warn_deprecated(
        "polish= goes: ImplicitLayer(cell, Then(Flow(), Anderson())) follows the flow to rest, and "
        "Anderson takes on the samples that do not get there; with_solver takes the same.",
        gone="0.3",
    )
    return Then(Flow(rtol=polish.rtol, atol=polish.atol), polish)


def polished_layer(
    kind: type[FlowLayer],
    polish: Solver[Equilibrium, Any],
    cell: nn.Module,
    solver: Solver[InitialValue, Any] = ODE(),  # noqa: B008  (frozen)
    gradient: Any = None,
    **settings: Any,
) -> Layer:
    """Return the layer that stands for a `FlowLayer` with a polish, on its own cell."""
    rule = Implicit() if gradient in (None, Unroll()) else gradient
    layer = kind(cell, solver, **settings).with_solver(solver, rule, polish=polish)
    layer.cell, layer.spare = cell, {}
    return layer
