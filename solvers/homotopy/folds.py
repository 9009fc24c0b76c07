"""Fold points of a branch, located by root finding on dlambda/ds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..linear import GMRES
from ..newton import NewtonKrylov
from .branch import Fold, precise
from .curve import Curve
from .predictor import Knot, hermite


def locate_folds(curve: Curve, w: Tensor, tangent: Tensor, s: Tensor) -> Iterator[Fold]:
    """Yield the fold between each two points of a branch at which dlambda/ds changes sign.

    Points between are corrected in planes normal to the tangent at the first of the two, and
    dlambda/ds there is brought to 0 by Brent's method (scipy's): lambda at the fold is exact to
    second order in what is left.

    Arguments:
        curve: the equations, of one sample.
        w: the branch's points, (T, n + 1).
        tangent: theirs, (T, n + 1).
        s: arclength, (T,).
    """
    slope = tangent[:, -1]
    turning = torch.nonzero((slope[1:] > 0) != (slope[:-1] > 0)).squeeze(1).tolist()
    for k in turning:
        last = Knot(w[k : k + 1], tangent[k : k + 1])
        here = Knot(w[k + 1 : k + 2], tangent[k + 1 : k + 2])
        fold = _between(curve, last, here, float(s[k + 1] - s[k]))
        if fold is not None:
            yield replace(fold, s=fold.s + float(s[k]))


def _between(curve: Curve, last: Knot, here: Knot, gap: float) -> Fold | None:
    from scipy.optimize import brentq

    dtype = last.y.dtype
    reach = float((last.slope * (here.y - last.y)).sum())
    linear = GMRES(last.y[0].numel())
    solver = NewtonKrylov(rtol=precise(dtype), max_steps=12, halvings=0, linear=linear)
    width = last.y.new_full((1,), gap)
    latest: dict[str, Tensor] = {}

    def slope_at(step: float) -> float:
        if step <= 0:
            return float(last.slope[0, -1])
        guess = hermite(last, here, width, last.y.new_full((1,), step / reach)) - last.y
        # Scaled to the plane: the cubic meets it only up to the error of the interpolation.
        ds = last.y.new_full((1,), step)
        found = run(curve.slice(last.y, last.slope, ds), solver, guess)
        w = last.y + found.value
        guide = last.slope
        tangent, _ = curve.tangent(w, guide, rtol=precise(dtype), linear=linear)
        latest.update(w=w, tangent=tangent)
        return float(tangent[0, -1])

    try:
        tolerance: Any = {"xtol": 1e-3 * precise(dtype) ** 0.5, "rtol": 1e-10}
        step: Any = brentq(slope_at, 0.0, reach, maxiter=60, **tolerance)
    except ValueError:  # the sign does not change between corrected points
        return None
    slope = slope_at(float(step))
    z, lam = curve.split(latest["w"])
    return Fold(z[0], float(lam[0]), float((latest["w"] - last.y).norm()), slope / curve.scales[1])
