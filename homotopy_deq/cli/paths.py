"""The states that a forward pass goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers import NewtonKrylov, Trajectory
from solvers.homotopy import FixedPoint, trace
from solvers.homotopy.trace import TRACKER

from ..layers import FlowLayer
from ..models import ImageModel
from ..plotting_branch import branch_figure, rms
from ..regularization import relative_residual

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@torch.no_grad()
def trajectory(model: ImageModel, images: Tensor) -> Trajectory[Tensor]:
    """Return the states, residuals and evaluations along a model's forward pass.

    Of a flow these are the steps of its integrator.

    Arguments:
        model: in eval mode.
        images: (B, C, H, W), in [0, 1].
    """
    path = model.solve(images, record=True).solution.trajectory
    assert path is not None
    if not isinstance(model.layer, FlowLayer):
        return path
    return _with_residuals(model, model.condition(images), path.z, path.evals)


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
