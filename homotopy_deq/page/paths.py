"""The states that a forward pass goes through, and the branch of roots that leads to the answer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from solvers import NewtonKrylov, Trajectory
from solvers.homotopy import Branch, FixedPoint, trace
from solvers.homotopy.trace import TRACKER

from ..layers import FlowLayer
from ..models import ImageModel, ModelOutput


@torch.no_grad()
def follow(model: ImageModel, images: Tensor) -> tuple[ModelOutput, Trajectory[Tensor]]:
    """Return a model's answer, and the states, residuals and evaluations on the way to it.

    Of a flow these are the steps of its integrator.

    Arguments:
        model: in eval mode.
        images: (B, C, H, W), in [0, 1].
    """
    output = model.solve(images, record=True)
    path = output.solution.trajectory
    assert path is not None
    if isinstance(model.layer, FlowLayer):
        residual = [model.layer.residual(z, output.condition) for z in path.z]
        path = Trajectory(path.z, torch.stack(residual), path.evals)
    return output, path


def trajectory(model: ImageModel, images: Tensor) -> Trajectory[Tensor]:
    """Return the states, residuals and evaluations along a model's forward pass, see `follow`.

    Arguments:
        model: in eval mode.
        images: (B, C, H, W), in [0, 1].
    """
    return follow(model, images)[1]


@torch.no_grad()
def traced(model: ImageModel, images: Tensor) -> list[Branch]:
    """Return the roots of z = z0 + lambda (f(z) - z0) for each image, lambda from 0 to 1.

    Arguments:
        model: with a rest point.
        images: (B, C, H, W), in [0, 1].
    """
    x = model.condition(images)
    start, layer = model.start(x), model.layer
    problem = layer.equation(layer.condition(x))
    tracker = replace(TRACKER, max_steps=100, corrector=NewtonKrylov(rtol=1e-4, halvings=0))
    return trace(FixedPoint().of(problem, start), start, tracker=tracker)
