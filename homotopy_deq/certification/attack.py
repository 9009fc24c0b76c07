"""Look in an l2 ball for what a classifier, or its smoothed version, gets wrong."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..adversary import Loss, ascend, distance, frozen, project, slope, smoothed
from .noise import Noise, Phase

Logits = Callable[[Tensor], Tensor]
"""Maps images (B, C, H, W) to logits (B, classes): a model, or a function."""


@dataclass(frozen=True)
class Attack:
    """Say how to search a ball: by projected gradient ascent from several starts.

    Step k of K has length radius (1 + cos(pi k / K)) / 2. Constant steps of 2 radius / K turn a
    point on the sphere to within 15 degrees of the best one for a linear classifier and no
    further; on two DEQs trained on the digits these reached losses higher by 2 to 25%.

    What is drawn for an image is a function of (seed, image) alone.

    Arguments:
        steps: K, of an ascent.
        restarts: ascents: the first from the image, the others from points drawn uniformly in the
            ball.
        draws: noise draws M of a smoothed classifier; each ascent has its own, and they are
            compared under draws that none of them has seen.
        batch: images, or noisy images, solved for at a time.
        seed: 0 or more.

    References:
        A. Madry, A. Makelov, L. Schmidt, D. Tsipras, A. Vladu (2018), Towards deep learning models
        resistant to adversarial attacks.
        F. Croce, M. Hein (2020), Reliable evaluation of adversarial robustness with an ensemble of
        diverse parameter-free attacks: large steps first, small ones last.
    """

    steps: int = 20
    restarts: int = 2
    draws: int = 32
    batch: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "restarts", "draws", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more; got {self.seed}.")


def pgd(
    model: Logits,
    images: Tensor,
    labels: Tensor,
    radius: float | Tensor,
    attack: Attack = Attack(),  # noqa: B008  (frozen)
    *,
    sigma: float | None = None,
    keys: Sequence[int] | None = None,
) -> Tensor:
    """Return points of the l2 balls around the images at which the cross entropy is large.

    With sigma it is that of the smoothed classifier,

        -log (1/M) sum_i softmax(model(x + e_i))_y,   e_i from N(0, sigma^2 I).

    The gradient is that of the model, through its implicit layer; the point returned is the best
    of all that were visited. It is not clipped to [0, 1], as certificates are not.

    Arguments:
        model: logits; a module is attacked in eval mode and is left as it was.
        images: (B, C, H, W).
        labels: (B,), the class to be left.
        radius: of the balls, 0 or more, one number or (B,).
        attack: how to search.
        sigma: standard deviation of the noise in input units, above 0; None for none.
        keys: the images' numbers, which decide their random starts; 0, 1, ... by default.

    Returns:
        (B, C, H, W): no point is outside its ball, in double precision.

    Raises:
        ValueError: the arguments do not fit together, or a radius is negative or not finite.

    References:
        H. Salman, G. Yang, J. Li, P. Zhang, H. Zhang, I. Razenshteyn, S. Bubeck (2019), Provably
        robust deep learning via adversarially trained smoothed classifiers.
    """
    balls, named = check_balls(images, labels, radius, keys)
    noise = None if sigma is None else Noise(sigma, attack.seed)
    size = attack.batch if noise is None else attack.batch // attack.draws
    found = []
    with frozen(model):
        for rows in slices(len(images), size):
            some = images[rows], labels[rows], named[rows]
            losses = [
                _loss(model, *some, noise, part, attack.draws)
                for part in range(attack.restarts + 1)
            ]
            ball = images[rows], balls[rows], named[rows]
            found.append(_search(losses[1:], losses[0], *ball, attack))
    return torch.cat(found) if found else images.clone()


def slices(count: int, size: int) -> list[slice]:
    """Cut 0..count-1 in pieces of `size`, or of 1 where that is larger."""
    step = max(1, size)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


def check_balls(
    images: Tensor, labels: Tensor, radius: float | Tensor, keys: Sequence[int] | None
) -> tuple[Tensor, list[int]]:
    """Return the radii in double precision, (B,), and the images' numbers, if all fit together.

    Raises:
        ValueError: see `pgd`.
    """
    count = len(images)
    if images.dim() < 2 or not images.is_floating_point():
        raise ValueError(
            "images must be floating point, (B, C, H, W); got "
            f"{images.dtype} of shape {tuple(images.shape)}."
        )
    if tuple(labels.shape) != (count,):
        raise ValueError(f"labels must have shape ({count},); got {tuple(labels.shape)}.")
    balls = torch.as_tensor(radius, dtype=torch.float64, device=images.device)
    if balls.dim() and tuple(balls.shape) != (count,):
        raise ValueError(f"radius must be a number or {count} of them; got {tuple(balls.shape)}.")
    if not bool(((balls >= 0) & balls.isfinite()).all()):
        raise ValueError(f"radius must be finite and 0 or more; got {radius}.")
    named = list(range(count)) if keys is None else [int(key) for key in keys]
    if len(named) != count or min(named, default=0) < 0:
        raise ValueError(f"keys must be {count} numbers, 0 or more; got {keys}.")
    return balls.expand(count), named


def _search(
    losses: Sequence[Loss],
    judge: Loss,
    images: Tensor,
    radius: Tensor,
    keys: Sequence[int],
    attack: Attack,
) -> Tensor:
    """Ascend each of the losses once; return what the judge finds worst, the images included."""
    best = images
    with torch.no_grad():
        worst = judge(images).nan_to_num(nan=-math.inf)  # any other point is then better
    for restart, loss in enumerate(losses):
        points = images
        if restart:
            points = project(_start(images, radius, keys, restart, attack.seed), images, radius)
        top, height = points, torch.full_like(worst, -math.inf)
        for k in range(attack.steps):
            length = radius * (1 + math.cos(math.pi * k / attack.steps)) / 2
            values, gradient = slope(loss, points)
            top, height = _higher(values, points, height, top)
            points = project(ascend(points, gradient, length), images, radius)
        with torch.no_grad():
            top, _ = _higher(loss(points), points, height, top)
            best, worst = _higher(judge(top), top, worst, best)
    assert bool((distance(best, images) <= radius).all())
    return best


def _higher(new: Tensor, points: Tensor, height: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points with the higher values, and these."""
    better = new > height  # False for nan
    each = better.reshape(-1, *[1] * (points.dim() - 1))
    return torch.where(each, points, top), torch.where(better, new, height)


def _start(images: Tensor, radius: Tensor, keys: Sequence[int], restart: int, seed: int) -> Tensor:
    """Draw a point uniformly in each ball: a direction, and radius U^(1/d)."""
    starts, size = [], images[0].numel()
    for key, ball in zip(keys, radius.tolist(), strict=True):
        generator = Noise(1.0, seed).generator(key, Phase.ATTACK, f"start {restart}")
        direction = generator.standard_normal(size)
        far = ball * generator.random() ** (1 / size)
        starts.append(direction * (far / np.linalg.norm(direction)))
    away = torch.from_numpy(np.stack(starts)).reshape(images.shape).to(images.device)
    return (images.double() + away).to(images.dtype)


def _loss(
    model: Logits,
    images: Tensor,
    labels: Tensor,
    keys: Sequence[int],
    noise: Noise | None,
    part: int,
    draws: int,
) -> Loss:
    """Return the cross entropy, under one part of the images' noise where there is any."""
    if noise is None:
        return lambda points: F.cross_entropy(model(points), labels, reduction="none")
    first, shape = part * draws, images.shape[1:]
    each = [noise.draw(k, Phase.ATTACK, first, first + draws, shape) for k in keys]
    many = torch.stack(each, 1).to(images).flatten(0, 1)  # (draws * B, C, H, W)

    def loss(points: Tensor) -> Tensor:
        logits = model(points.repeat(draws, *[1] * len(shape)) + many)
        return F.nll_loss(smoothed(logits, draws), labels, reduction="none")

    return loss
