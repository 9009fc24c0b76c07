"""Folds: where dlambda/ds changes its sign along a branch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor

from ..driver import run
from ..linear import GMRES
from ..newton import NewtonKrylov
from ..norms import dot, norm
from .branch import Branch, Fold, precise
from .curve import Curve
from .predictor import Cubic

FAR = 0.1  # of a step: a correction that is longer has left the cubic for another branch
Function = Callable[[Tensor], float]  # of a point w, (1, n + 1)


def locate_folds(branch: Branch) -> Iterator[Fold]:
    """Yield the fold between each two points of a branch at which dlambda/ds changes its sign.

    lambda there is exact to second order in what is left of dlambda/ds.
    """
    curve, rising = branch.curve, branch.tangent[:, -1] > 0
    linear, rtol = GMRES(branch.tangent.shape[1]), precise(branch.z.dtype)
    changes = rising[1:] != rising[:-1]
    for k in changes.to(branch.s.device).nonzero().squeeze(1):
        piece = branch.cubics.rows(k[None])
        last = piece.last

        def rate(w: Tensor, guide: Tensor = last.slope) -> float:
            return float(curve.tangent(w, guide, rtol=rtol, linear=linear)[0][0, -1])

        w = _zero(curve, piece, rate)
        z, lam = curve.split(w)
        s = float(branch.s[k] + norm(w - last.y))
        yield Fold(z[0], float(lam), s, rate(w) / curve.scales[1])


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
