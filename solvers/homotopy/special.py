"""Folds and branch points: where a function along a branch changes its sign."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..linear import GMRES
from ..newton import NewtonKrylov
from ..norms import dot, norm
from .branch import Branch, BranchPoint, Fold, precise
from .curve import Curve
from .predictor import Cubic, Knot

FAR = 0.1  # of a step: a correction that is longer has left the cubic for another branch
Function = Callable[[Tensor], float]  # of a point w, (1, n + 1)


def locate_folds(branch: Branch) -> Iterator[Fold]:
    """Yield the fold between each two points of a branch at which dlambda/ds changes its sign.

    lambda there is exact to second order in what is left of dlambda/ds.
    """
    curve, rising = branch.curve, branch.tangent[:, -1] > 0

    def rate(first: Knot) -> Function:
        linear, rtol = GMRES(first.y[0].numel()), precise(first.y.dtype)
        return lambda w: float(curve.tangent(w, first.slope, rtol=rtol, linear=linear)[0][0, -1])

    for z, lam, s, slope in _zeros(branch, rising[1:] != rising[:-1], rate):
        yield Fold(z, lam, s, slope / curve.scales[1])


def locate_branch_points(branch: Branch) -> Iterator[BranchPoint]:
    """Yield the branch point between each two points at which det [G'(w); t^T] changes its sign.

    It does so at a simple branch point (a pitchfork, a transcritical one) and at no fold; a
    point where an even number of branches cross the one that is followed is not seen.

    References:
        H. Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems.
    """
    curve = branch.curve
    points = zip(branch.points()[:, None], branch.tangent[:, None], strict=True)
    sign = torch.stack([_determinant(curve, w, border)[0] for w, border in points])

    def determinant(first: Knot) -> Function:
        scale = _determinant(curve, first.y, first.slope)[1]

        def scaled(w: Tensor) -> float:
            sign, size = _determinant(curve, w, first.slope)
            return float(sign * (size - scale).clamp(max=50).exp())

        return scaled

    for z, lam, s, _ in _zeros(branch, sign[1:] * sign[:-1] < 0, determinant):
        yield BranchPoint(z, lam, s)


def _determinant(curve: Curve, w: Tensor, border: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sign of det [G'(w); border^T] and log |det|."""
    sign, size = torch.linalg.slogdet(curve.bordered(w, border).matrix()[0])
    return sign, size


def _zeros(
    branch: Branch, changes: Tensor, function: Callable[[Knot], Function]
) -> Iterator[tuple[Tensor, float, float, float]]:
    """Yield z, lambda, arclength and what is left of a function where it is 0 along a branch.

    Arguments:
        branch: of one sample.
        changes: between which points the function changes its sign, bool (T - 1,).
        function: makes it of the first of the two points.
    """
    for k in changes.to(branch.s.device).nonzero().squeeze(1):
        piece = branch.cubics.rows(k[None])
        value = function(piece.last)
        w = _zero(branch.curve, piece, value)
        z, lam = branch.curve.split(w)
        yield z[0], float(lam), float(branch.s[k] + norm(w - piece.last.y)), value(w)


def _zero(curve: Curve, piece: Cubic, function: Function) -> Tensor:
    """Return the point w of a curve, (1, n + 1), at which a function is 0, by Brent's method.

    Points are corrected in planes normal to the slope at the first end.
    """
    from scipy.optimize import brentq

    last, here = piece.last, piece.here
    reach = float(dot(last.slope, here.y - last.y))
    tight = precise(last.y.dtype)
    solver = NewtonKrylov(rtol=tight, max_steps=12, linear=GMRES(last.y[0].numel()))

    def at(step: float) -> Tensor:
        """Return the point in the plane `step` away from the first end."""
        if not 0 < step < reach:
            return last.y if step <= 0 else here.y
        ds = last.y.new_full((1,), step)
        guess = piece.at(ds / reach) - last.y
        found = run(curve.slice(last.y, last.slope, ds), solver, guess)
        # At a branch point itself the system is singular: a correction may lead anywhere.
        fine = float(norm(found.value - guess)) <= FAR * float(piece.gap)
        return last.y + (found.value if fine else guess)

    step: Any = reach / 2
    with suppress(ValueError):  # no change under the border of the first point: halfway is near
        step = brentq(
            lambda step: function(at(step)),
            0.0,
            reach,
            xtol=1e-3 * tight**0.5,
            maxiter=60,
            disp=False,  # slow at a zero of odd multiplicity, which is near all the same
        )
    return at(float(step))
