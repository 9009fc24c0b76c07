"""Branch points that curves meet, and steps that jump to another branch, which are refused."""

from __future__ import annotations

import torch
from torch import Tensor

from ..jacobian import Linearization
from ..norms import dot, norm
from .branch import precise
from .curve import Curve
from .path import ArcState
from .predictor import Cubic

NEAR = 0.1  # of a step: how far from its cubic a branch point that it passed may lie
ITERATIONS = 30  # from a short step four are enough; where branches cross at once they halve it


class Crossings:
    """The branch points on the curves of a batch, noted as the curves are followed.

    Along a curve det [G'(w); t^T] changes its sign at a simple branch point (a pitchfork, a
    transcritical one) and at no fold. A step over which it does so and which passed no branch
    point has jumped to another branch. Where an even number of branches cross, or are jumped
    over, the sign stays and nothing is seen.

    Arguments:
        curve: the curves.
        begin: at their first points.

    References:
        H. Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems.
    """

    def __init__(self, curve: Curve, begin: ArcState) -> None:
        self.signs = _signs(curve, begin)  # of each sample's last point that has one
        self.steps = [0 for _ in self.signs]  # taken by each sample
        self.found: list[list[tuple[int, Tensor]]] = [[] for _ in self.signs]
        """Each sample's branch points: the step, counted from 0, and w, (1, n + 1)."""

    def passes(self, curve: Curve, state: ArcState, samples: list[int]) -> Tensor:
        """Say whose last step stayed on its branch, bool (B,), and note what it passed.

        Arguments:
            curve: those of the rows of the state.
            state: after a step.
            samples: of each row.
        """
        moved = state.moved.nonzero().squeeze(1)
        passed = state.moved.clone()
        if not len(moved):
            return passed
        signs = _signs(curve.rows(moved), state.rows(moved))
        for row, sign in zip(moved.tolist(), signs, strict=True):
            sample = samples[row]
            if sign * self.signs[sample] < 0:
                alone = moved.new_tensor([row])
                point = branch_point(curve.rows(alone), state.rows(alone).piece)
                if point is None:
                    passed[row] = False
                    continue
                self.found[sample].append((self.steps[sample], point))
            self.signs[sample] = sign or self.signs[sample]
            self.steps[sample] += 1
        return passed


def branch_point(curve: Curve, piece: Cubic) -> Tensor | None:
    """Return the simple branch point that a step of one curve passed, w (1, n + 1), if it did.

    Solves the unfolded equations

        G(w) + mu u = 0,   u^T G'(w) = 0,   u a unit vector,

    by Newton's method, u the left singular vector of the least singular value of G'(w) in each
    iteration. They have a regular solution near a simple branch point, and near a miss, an
    imperfect one, too: that has a mu other than 0, and no two branches meet. mu counts as 0 up to
    eps^0.8 ||G'(w)|| ||w||, which leaves room for rounding.

    References:
        G. Moore (1980), The numerical treatment of non-trivial bifurcation points.
        W. Govaerts (2000), Numerical methods for bifurcations of dynamical equilibria.
    """
    w = piece.at(torch.full_like(piece.gap, 0.5))
    eps, tight, n = torch.finfo(w.dtype).eps, precise(w.dtype), w.shape[1] - 1
    met = False
    for _ in range(ITERATIONS):
        scale = float(norm(w).clamp_min(1))
        here = Linearization(curve.gap, w)
        slope = here.matrix()[0]
        if not bool(torch.isfinite(slope).all()):
            return None
        left, sigma, right = torch.linalg.svd(slope)
        u, pair = left[None, :, -1], right[-2:]  # pair: where u^T G' v is sigma_n and 0
        h = scale * eps**0.5
        bend = [Linearization(curve.gap, w + h * v).pull(u) - here.pull(u) for v in pair]
        system = w.new_zeros(n + 2, n + 2)
        system[:n] = torch.cat((slope, u.T), dim=1)
        system[n:, :-1] = torch.cat(bend) / h
        if not bool(torch.isfinite(system).all()):
            return None
        off = torch.cat((here.value[0], sigma[-1:], sigma.new_zeros(1)))
        change = -(torch.linalg.pinv(system) @ off)[None]  # several branches may cross at once
        w, mu, size = w + change[:, :-1], change[0, -1].abs(), norm(change[:, :-1])
        met = bool((size <= tight**0.5 * scale) & (mu <= tight * scale * norm(slope[None])))
        if bool(size <= eps**0.6 * scale):
            break
    last = piece.last
    share = dot(w - last.y, piece.here.y - last.y) / piece.gap.square()
    off_step = norm(w - piece.at(share.clamp(0, 1)))
    return w if met and bool(off_step <= NEAR * piece.gap) else None


def _signs(curve: Curve, state: ArcState) -> list[float]:
    """Return the sign of det [G'(w); t^T] at each point."""
    matrices = curve.bordered(state.y, state.slope).matrix()
    signs: list[float] = torch.linalg.slogdet(matrices)[0].nan_to_num().tolist()
    return signs
