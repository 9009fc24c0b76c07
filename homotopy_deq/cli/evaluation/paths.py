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

from ...layers import FlowLayer
from ...models import ImageModel
from ...plotting import branch_figure, rms

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
    condition = model.layer.condition(model.condition(images))
    residual = [model.layer.residual(z, condition) for z in path.z]
    return Trajectory(path.z, torch.stack(residual), path.evals)


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
