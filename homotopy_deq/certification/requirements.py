"""What a forward pass must be for its votes to be those of one base classifier."""

from __future__ import annotations

from typing import Any

from solvers import ODE, Continuation, Davidenko, Robust, Solver, Then
from solvers.ode.initial_value import GRID

from ..layers import FlowLayer
from ..models import ImageModel
from .starts import Along, Cold, Start


def root_solver(model: ImageModel) -> Solver[Any, Any]:
    """Return what finds the model's answer: the polish of a flow that has one."""
    layer = model.layer
    return layer.polish if layer.polish is not None else layer.solver


def check_count(name: str, value: int) -> None:
    """Refuse counts below 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1; got {value}.")


def check_start(model: ImageModel, start: Start) -> None:
    """Refuse starts that the model's forward pass cannot begin from."""
    flow = isinstance(root_solver(model), ODE)
    if flow and not isinstance(start, (Cold, Along)):
        raise ValueError(
            "a flow that is not polished has no equilibrium to start from: choose --solver "
            "anderson (or rk4+anderson), --warm-start none, or --warm-start along."
        )
    if isinstance(start, Along):
        if not (isinstance(model.layer, FlowLayer) or isinstance(root_solver(model), Continuation)):
            raise ValueError(
                f"{type(model.layer.solver).__name__} has no time along which states are stored: "
                "--warm-start along goes with a flow or continuation."
            )
        if flow and not start.time < model.layer.t1:
            raise ValueError(
                f"--warm-start along:{start.time:g} is past the flow's end at {model.layer.t1:g}."
            )


def check_flow(model: ImageModel) -> None:
    """Refuse forward passes in which a sample's answer depends on its batch mates."""
    for solver in (model.layer.solver, root_solver(model)):
        if isinstance(solver, (ODE, Davidenko)) and solver.method not in GRID:
            raise ValueError(
                f"{solver.method} chooses its steps by the worst sample of the batch, so a vote "
                "depends on its batch mates and there is no fixed base classifier. Choose a "
                "method without error control (--solver rk4), or an equilibrium solver "
                "(--solver anderson)."
            )


def check_steps(model: ImageModel) -> None:
    """Refuse solvers that are not stopped after so many steps of one iteration."""
    solver = root_solver(model)
    if isinstance(solver, ODE):
        raise ValueError(
            "a flow is stopped by its step size, not after so many steps: choose an equilibrium "
            "solver (--solver anderson), or for a shorter flow --step-size."
        )
    if isinstance(solver, (Then, Robust, Davidenko)):
        raise ValueError(
            f"a step of {type(solver).__name__} is a whole solve, so --steps says nothing of it: "
            "choose a solver of one iteration (--solver anderson)."
        )
