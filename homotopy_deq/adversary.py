"""What attacks in an l2 ball are made of; training and certification use the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor], Tensor]
"""Maps images (B, C, H, W) to the loss of each, (B,)."""


def smoothed(logits: Tensor, draws: int) -> Tensor:
    """Return the log-probabilities of the smoothed soft classifier, (B, classes):

        log (1/M) sum_i softmax(logits of draw i).

    Arguments:
        logits: (M * B, classes), the B images of the first draw first.
        draws: number M of noise draws an image.

    References:
        H. Salman, G. Yang, J. Li, P. Zhang, H. Zhang, I. Razenshteyn, S. Bubeck (2019), Provably
        robust deep learning via adversarially trained smoothed classifiers.
    """
    each = logits.float() if logits.dtype.itemsize < 4 else logits
    each = each.log_softmax(1).reshape(draws, -1, logits.shape[1])
    return each.logsumexp(0) - math.log(draws)


def project(points: Tensor, centres: Tensor, radius: Tensor) -> Tensor:
    """Return the points, those outside their l2 ball drawn onto it and never left outside.

    Distances are measured in double precision between the numbers as they are stored: a point
    that rounding has pushed out is drawn further in, until it is inside.

    Arguments:
        points: (B, ...).
        centres: of their balls, (B, ...).
        radius: (B,), 0 or more.
    """
    centre, away = centres.double(), points.double() - centres.double()
    radius = radius.double()
    length = away.flatten(1).norm(dim=1)
    scale = torch.where(length > radius, radius / length.clamp_min(1e-300), 1.0)
    inside = centres.clone()
    left = torch.ones_like(length, dtype=torch.bool)
    margin = 2.0**-26  # below single precision's rounding; doubled until rounding does not matter
    while margin < 1 and bool(left.any()):
        candidate = (centre + away * scale.reshape(-1, *[1] * (points.dim() - 1))).to(points.dtype)
        fits = left & (distance(candidate, centres) <= radius)
        inside[fits] = candidate[fits]
        left &= ~fits
        scale = torch.where(left, scale * (1 - margin), scale)
        margin *= 2
    return inside  # what fits nowhere, in a ball smaller than the spacing of numbers, is the centre


def distance(points: Tensor, centres: Tensor) -> Tensor:
    """Return the l2 distances in double precision, (B,)."""
    away: Tensor = (points.double() - centres.double()).flatten(1).norm(dim=1)
    return away


def slope(loss: Loss, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of each point, (B,), and its gradient there, whatever grad mode holds."""
    with torch.enable_grad():
        at = points.detach().requires_grad_()
        values = loss(at)
        (gradient,) = torch.autograd.grad(values.sum(), at)
    return values.detach(), gradient


def ascend(points: Tensor, gradient: Tensor, length: Tensor) -> Tensor:
    """Step by `length`, (B,), along the normalised gradient; a sample without one stays.

    A gradient that is not finite moves nothing either.
    """
    flat = gradient.double().flatten(1)
    size = flat.norm(dim=1)
    usable = (size > 0) & size.isfinite()
    scale = torch.where(usable, length.double() / torch.where(usable, size, 1.0), 0.0)
    step = torch.where(usable[:, None], flat, 0.0) * scale[:, None]
    return (points.double() + step.reshape(points.shape)).to(points.dtype)


@contextmanager
def frozen(model: object) -> Iterator[None]:
    """Hold a module in eval mode with parameters that want no gradient; restore it after.

    In train mode batch statistics would tie the images of a batch together, and a dropout mask
    would change the attacked function from step to step. What is no module is left alone.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)
