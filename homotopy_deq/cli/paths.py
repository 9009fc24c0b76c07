"""The states that a forward pass goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers import ODE, NewtonKrylov, Trajectory
from solvers.homotopy import FixedPoint, trace
from solvers.homotopy.trace import TRACKER

from ..models import ImageModel
from ..plotting_branch import branch_figure, rms
from ..regularization import relative_residual
from .names import ONE_STEP

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STOPS = 10


@torch.no_grad()
def trajectory(model: ImageModel, images: Tensor) -> Trajectory[Tensor]:
    """Return the states, residuals and evaluations along a model's forward pass.

    Of a flow these are its ends at 10 horizons (or at each step of a method without error
    control), each integrated from the start: an integrator that is stopped to be looked at and
    started again would take more evaluations than it does undisturbed.

    Arguments:
        model: in eval mode.
        images: (B, C, H, W), in [0, 1].
    """
    solver = model.layer.solver
    x = model.condition(images)
    if not isinstance(solver, ODE) or model.layer.polish is not None:
        path = model.solve(images, record=True).solution.trajectory
        assert path is not None
        return (
            path if not isinstance(solver, ODE) else _with_residuals(model, x, path.z, path.evals)
        )
    horizon = model.layer.t1
    stops = max(1, round(horizon / solver.step_size)) if solver.method in ONE_STEP else STOPS
    states, evals = [model.start(x)], [0]
    for k in range(1, stops + 1):
        found = model.with_solver(solver, t1=horizon * k / stops).solve(images).solution
        states.append(found.value)
        evals.append(round(float(found.evals.double().mean())))
    return _with_residuals(model, x, torch.stack(states), torch.tensor(evals))


@torch.no_grad()
def branches(model: ImageModel, images: Tensor, names: Sequence[str]) -> Figure:
    """Draw the roots of z = z0 + lambda (f(z) - z0) for each image, lambda from 0 to 1.

    Arguments:
        model: with a rest point.
        images: (B, C, H, W), in [0, 1].
        names: of the images.
    """
    x = model.condition(images)
    start, layer = model.start(x), model.layer
    problem = layer.equation(layer.condition(x))
    tracker = replace(TRACKER, max_steps=100, corrector=NewtonKrylov(rtol=1e-4, halvings=0))
    found = trace(FixedPoint().of(problem, start), start, tracker=tracker)
    labels = [f"{k + 1}: {name}" for k, name in enumerate(names)]
    return branch_figure(dict(zip(labels, found, strict=True)), rms, ylabel="root mean square of z")


def _with_residuals(
    model: ImageModel, x: Tensor, states: Tensor, evals: Tensor
) -> Trajectory[Tensor]:
    """Measure how far each state of a flow (T, B, ...) is from rest; NaN where nothing rests."""
    condition = model.layer.condition(x)
    if model.layer.rest_point:
        f = model.layer.equation(condition).map
        residual = [relative_residual(f, z, *condition) for z in states]
    else:
        residual = [z.new_full((len(z),), float("nan")) for z in states]
    return Trajectory(states, torch.stack(residual), evals)
