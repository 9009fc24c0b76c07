"""Branch points: where another branch of roots crosses the one that is followed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..linear import GMRES
from ..newton import NewtonKrylov
from ..norms import dot, norm
from .branch import BranchPoint, precise
from .curve import Curve
from .predictor import Knot, hermite

NEAR = 1e-2  # of a step: a cubic through points of a smooth curve is off by the fourth power


def locate_branch_points(
    curve: Curve, w: Tensor, tangent: Tensor, s: Tensor
) -> Iterator[BranchPoint]:
    """Yield the branch point between each two points at which det [G'(w); t^T] changes its sign.

    It does so at a simple branch point (a pitchfork, a transcritical one) and at no fold; a
    point where an even number of branches cross the one that is followed is not seen.

    Arguments:
        curve: the equations, of one sample.
        w: the branch's points, (T, n + 1).
        tangent: its unit tangents, (T, n + 1).
        s: arclength, (T,).

    References:
        H. Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems.
    """
    signs = [_determinant(curve, w[k : k + 1], tangent[k : k + 1])[0] for k in range(len(w))]
    for k in range(len(w) - 1):
        if signs[k] * signs[k + 1] < 0:
            last = Knot(w[k : k + 1], tangent[k : k + 1])
            here = Knot(w[k + 1 : k + 2], tangent[k + 1 : k + 2])
            found = _between(curve, last, here, float(s[k + 1] - s[k]))
            yield replace(found, s=found.s + float(s[k]))


def closes(here: Knot, last: Knot, gap: Tensor, home: Knot) -> Tensor:
    """Say whose last step passed the branch's first point in its direction, bool (B,).

    Arguments:
        here: the point after the step.
        last: the point before it.
        gap: the arclength between the two, (B,).
        home: the first point.
    """
    along = dot(last.slope, home.y - last.y)
    reach = dot(last.slope, here.y - last.y)
    share = (along / reach.clamp_min(torch.finfo(reach.dtype).tiny)).clamp(0, 1)
    off = hermite(last, here, gap, share) - home.y
    off = off - dot(off, home.slope)[:, None] * home.slope  # a cubic runs at a speed of its own
    same = dot(home.slope, here.slope) > 0.5
    return (along > 0) & (along <= reach) & (norm(off) <= NEAR * gap) & same


def _determinant(curve: Curve, w: Tensor, border: Tensor) -> tuple[float, float]:
    """Return the sign of det [G'(w); border^T] and log |det|."""
    sign, size = torch.linalg.slogdet(curve.bordered(w, border).matrix()[0])
    return float(sign), float(size)


def _between(curve: Curve, last: Knot, here: Knot, gap: float) -> BranchPoint:
    from scipy.optimize import brentq

    dtype = last.y.dtype
    reach = float(dot(last.slope, here.y - last.y))
    solver = NewtonKrylov(rtol=precise(dtype), max_steps=12, linear=GMRES(last.y[0].numel()))
    width = last.y.new_full((1,), gap)
    scale = _determinant(curve, last.y, last.slope)[1]

    def at(step: float) -> Tensor:
        """Return the point of the curve in the plane `step` away from the first."""
        if step <= 0:
            return last.y
        if step >= reach:
            return here.y
        guess = hermite(last, here, width, last.y.new_full((1,), step / reach)) - last.y
        found = run(curve.slice(last.y, last.slope, last.y.new_full((1,), step)), solver, guess)
        # At a branch point itself the system is singular: a correction may lead anywhere.
        fine = float(norm(found.value - guess)) <= NEAR * gap
        return last.y + (found.value if fine else guess)

    def determinant(step: float) -> float:
        sign, size = _determinant(curve, at(step), last.slope)
        return sign * math.exp(min(size - scale, 50.0))

    step: Any = reach / 2
    with suppress(ValueError):  # no change under the border of the first point: halfway is near
        step = brentq(determinant, 0.0, reach, xtol=1e-3 * precise(dtype) ** 0.5, maxiter=60)
    w = at(float(step))
    z, lam = curve.split(w)
    return BranchPoint(z[0], float(lam[0]), float(norm(w - last.y)))
