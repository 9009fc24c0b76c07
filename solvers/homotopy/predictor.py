"""Predictors: where a path is expected to be one step on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..norms import expand


@dataclass(frozen=True)
class Knot:
    """A point of a path y(s) and its derivative, as far as they are known.

    Arguments:
        y: the point, (B, ...): z where s is lambda, (z, lambda) where s is arclength.
        slope: dy/ds, (B, ...).
    """

    y: Tensor
    slope: Tensor


@dataclass(frozen=True)
class Predictor(ABC):
    """Extrapolate a path y(s) from its last two points.

    `tangents` says whether the slopes have to be derivatives, each of which costs a linear
    solve; otherwise they are those of the last secant, and come for free.
    """

    tangents: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, last: Knot, here: Knot, gap: Tensor, ds: Tensor) -> Tensor:
        """Return y at a parameter ds, (B,), after `here`, which lies gap, (B,), after `last`.

        gap is 0 where there is no earlier point.
        """


@dataclass(frozen=True)
class Constant(Predictor):
    """Stay: y(s + ds) = y(s). Only for paths that hardly move."""

    def __call__(self, last: Knot, here: Knot, gap: Tensor, ds: Tensor) -> Tensor:
        return here.y


@dataclass(frozen=True)
class Secant(Predictor):
    """Go on in the direction of the last step: second order, and free."""

    def __call__(self, last: Knot, here: Knot, gap: Tensor, ds: Tensor) -> Tensor:
        return here.y + expand(ds, here.y) * here.slope


@dataclass(frozen=True)
class Tangent(Predictor):
    """Go on along the tangent, y + ds y': second order, a linear solve a step (Euler's method)."""

    tangents: ClassVar[bool] = True

    def __call__(self, last: Knot, here: Knot, gap: Tensor, ds: Tensor) -> Tensor:
        return here.y + expand(ds, here.y) * here.slope


@dataclass(frozen=True)
class Hermite(Predictor):
    """Extrapolate the cubic through the last two points and their tangents: fourth order.

    Where the next step is longer than `reach` times the last it goes along the tangent, as a
    cubic is no guide so far out.

    Arguments:
        reach: longest extrapolation, as a multiple of the last step.

    References:
        L. Watson, S. Billups, A. Morgan (1987), HOMPACK.
    """

    tangents: ClassVar[bool] = True
    reach: float = 2.0

    def __call__(self, last: Knot, here: Knot, gap: Tensor, ds: Tensor) -> Tensor:
        straight = here.y + expand(ds, here.y) * here.slope
        known = (gap > 0) & (ds <= self.reach * gap)
        safe = torch.where(known, gap, 1)
        cubic = hermite(last, here, safe, 1 + ds / safe)
        return torch.where(expand(known, here.y), cubic, straight)


def hermite(last: Knot, here: Knot, gap: Tensor, t: Tensor) -> Tensor:
    """Evaluate the cubic through two points and their slopes at last.s + t gap; t is (B,)."""
    t, gap = expand(t, here.y), expand(gap, here.y)
    t2, t3 = t * t, t * t * t
    return (
        (2 * t3 - 3 * t2 + 1) * last.y
        + (t3 - 2 * t2 + t) * gap * last.slope
        + (3 * t2 - 2 * t3) * here.y
        + (t3 - t2) * gap * here.slope
    )
