"""A whole branch of roots as data: points, folds, stability, and the roots at a lambda."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..driver import solve
from ..linear import GMRES
from ..newton import NewtonKrylov
from ..status import Status
from .curve import Curve
from .predictor import Cubic, Knot


@dataclass(frozen=True)
class Fold:
    """A point where a branch turns back in lambda.

    Arguments:
        z: the root, (...).
        lam: lambda there.
        s: arclength from the start of the branch.
        slope: dlambda/ds where the search ended, 0 up to the precision.
    """

    z: Tensor
    lam: float
    s: float
    slope: float


@dataclass(frozen=True)
class BranchPoint:
    """A point where another branch crosses: a pitchfork or a transcritical bifurcation.

    Arguments:
        z: the root, (...).
        lam: lambda there.
        s: arclength from the start of the branch.
    """

    z: Tensor
    lam: float
    s: float


@dataclass(frozen=True)
class Branch:
    """The roots of z = h(z, lambda) along one curve.

    Arguments:
        z: the roots, (T, ...).
        lam: lambda of each, (T,).
        s: arclength from the start in the metric of `Curve`, (T,).
        tangent: unit tangents in the coordinates of `Curve`, (T, n + 1); the last column has
            the sign of dlambda/ds.
        status: why the branch ends: CONVERGED where lambda left the span or
            the branch came back to its start, which is then its last point, MAX_STEPS, or why the
            path could not be followed on.
        folds: in the order in which they are met.
        leading: eigenvalues of h_z with the largest real parts, (T, k) complex, largest first;
            None where they were not asked for.
        evals: evaluations and Jacobian products, those of the eigenvalues not included.
        curve: the equations.
        branch_points: in the order in which they are met; None where they were not looked for.
    """

    z: Tensor
    lam: Tensor
    s: Tensor
    tangent: Tensor
    status: Status
    folds: tuple[Fold, ...]
    leading: Tensor | None
    evals: int
    curve: Curve
    branch_points: tuple[BranchPoint, ...] | None = None

    @property
    def closed(self) -> bool:
        """Whether the branch is a loop, whose last point is its first."""
        ends = self.points()[[0, -1]]
        # A branch that sets out over its border has two points, and both are its start.
        return len(self.lam) > 2 and bool(ends[0].equal(ends[1]))

    @property
    def stable(self) -> Tensor | None:
        """Whether each root attracts the flow z' = h(z, lambda) - z, bool (T,)."""
        return None if self.leading is None else self.leading[:, 0].real < 1

    def points(self) -> Tensor:
        """Return the points w in the coordinates of `Curve`, (T, n + 1)."""
        return self.curve.join(self.z, self.lam)

    @property
    def cubics(self) -> Cubic:
        """The path between each two points."""
        w, t = self.points(), self.tangent
        return Cubic(Knot(w[:-1], t[:-1]), Knot(w[1:], t[1:]), self.s[1:] - self.s[:-1])

    def refined(self, parts: int = 8) -> tuple[Tensor, Tensor]:
        """Return z, (T', ...), and lambda, (T',), of the cubics between the points, to be drawn.

        Arguments:
            parts: points for each step; T' = (T - 1) parts + 1.
        """
        shares = [torch.full_like(self.s[1:], k / parts) for k in range(parts)]
        between = torch.stack([self.cubics.at(share) for share in shares], dim=1).flatten(0, 1)
        return self.curve.split(torch.cat((between, self.points()[-1:])))

    def roots(self, lam: float, rtol: float | None = None) -> Tensor:
        """Return the roots at one lambda, (R, ...), in the order in which the branch meets them.

        Each crossing is interpolated and polished; one whose polish fails is left out.

        Arguments:
            lam: where the branch is cut.
            rtol: tolerance on ||h(z) - z|| / ||h(z)||; by default near the precision.
        """
        side = self.lam >= lam
        first = (side[1:] != side[:-1]).nonzero().squeeze(1)
        if first.numel() == 0:
            return self.z[:0]
        at = self.cubics.rows(first).crossing(lam * self.curve.scales[1])
        guesses, _ = self.curve.split(at)
        tolerance = precise(self.z.dtype) if rtol is None else rtol
        solver = NewtonKrylov(rtol=tolerance, max_steps=30, linear=GMRES(guesses[0].numel()))
        family = self.curve.family
        level = self.lam.new_full((1,), lam)
        found = [solve(family.at(level), solver, guess[None]) for guess in guesses]
        good = [each.value for each in found if float(each.residual[0]) <= tolerance * 100]
        return torch.cat(good) if good else self.z[:0]


def precise(dtype: torch.dtype) -> float:
    """Return a tolerance that leaves Newton's method room for rounding: eps^0.8."""
    return math.pow(torch.finfo(dtype).eps, 0.8)
