"""Predictors: where a path is expected to be one step on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..norms import expand

BISECTIONS = 14  # places a crossing to 1e-4 of a step: it is polished anyway


@dataclass(frozen=True)
class Knot:
    """A point of a path y(s) and its derivative, as far as they are known.

    Arguments:
        y: the point, (B, ...): z where s is lambda, (z, lambda) where s is arclength.
        slope: dy/ds, (B, ...).
    """

    y: Tensor
    slope: Tensor

    def ahead(self, ds: Tensor) -> Tensor:
        """Return y a parameter ds, (B,), on along the slope."""
        return self.y + expand(ds, self.y) * self.slope

    def rows(self, index: Tensor) -> Knot:
        """Return the points `index` alone."""
        return Knot(self.y[index], self.slope[index])


@dataclass(frozen=True)
class Cubic:
    """The cubic through two points of a path and their slopes, for each sample.

    Arguments:
        last: the first point.
        here: the second.
        gap: what the parameter grows by between the two, (B,).
    """

    last: Knot
    here: Knot
    gap: Tensor

    def at(self, t: Tensor) -> Tensor:
        """Return the point a share t, (B,), of the way from the first point to the second."""
        t, gap = expand(t, self.here.y), expand(self.gap, self.here.y)
        t2, t3 = t * t, t * t * t
        return (
            (2 * t3 - 3 * t2 + 1) * self.last.y
            + (t3 - 2 * t2 + t) * gap * self.last.slope
            + (3 * t2 - 2 * t3) * self.here.y
            + (t3 - t2) * gap * self.here.slope
        )

    def crossing(self, level: Tensor | float) -> Tensor:
        """Return the point at which the last coordinate, lambda's, is `level`, (B, n + 1).

        Where that is on the same side of the level at both ends, any point between is returned.
        """
        high, low = torch.ones_like(self.gap), torch.zeros_like(self.gap)
        first, second = (Knot(k.y[:, -1:], k.slope[:, -1:]) for k in (self.last, self.here))
        lam = Cubic(first, second, self.gap)
        before = self.last.y[:, -1] >= level
        for _ in range(BISECTIONS):
            middle = 0.5 * (low + high)
            left = (lam.at(middle)[:, 0] >= level) == before
            low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        return self.at(high)

    def rows(self, index: Tensor) -> Cubic:
        """Return the cubics `index` alone."""
        return Cubic(self.last.rows(index), self.here.rows(index), self.gap[index])


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
        return here.ahead(ds)


@dataclass(frozen=True)
class Tangent(Predictor):
    """Go on along the tangent, y + ds y': second order, a linear solve a step (Euler's method)."""

    tangents: ClassVar[bool] = True

    def __call__(self, last: Knot, here: Knot, gap: Tensor, ds: Tensor) -> Tensor:
        return here.ahead(ds)


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
        known = (gap > 0) & (ds <= self.reach * gap)
        safe = torch.where(known, gap, 1)
        cubic = Cubic(last, here, safe).at(1 + ds / safe)
        return torch.where(expand(known, here.y), cubic, here.ahead(ds))
