"""The form that all Lipschitz-bounded layers share, and the inequality that proves its bound."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cells.bounds import SLACK, UNIT
from .blocks import Grid, act, spread


@dataclass(frozen=True, repr=False)
class Form:
    """An equilibrium network, with the diagonal matrix that proves its Lipschitz constant:

        z = phi(W z + U x + b),   y = V z + D x + c,   ||y(x) - y(x')|| <= gamma ||x - x'||,

    phi applied to each entry, with slopes in [0, 1]. With P = 2 L - L W - W^T L it is well posed if
    P > 0, and gamma holds if

        Q = [[P, -L U], [-U^T L, gamma I]] - [V D]^T [V D] / gamma >= 0,

    which for D = 0 is P - (V^T V + L U U^T L) / gamma >= 0. All linear maps are given by blocks
    (F, m, n), float64: one of a matrix, or one for each frequency of a circular convolution.

    Arguments:
        w: W, (F, n, n).
        u: U, (F, n, d).
        v: V, (F, k, n).
        d: D, (F, k, d).
        b: b, (n,).
        c: c, (k,).
        metric: the diagonal of L, (n,), above 0.
        gamma: the claim.
        linear: neurons whose phi is the identity, bool (n,); ReLU at the others.
        grid: height and width of the images, or None where the maps are matrices.

    References:
        M. Revay, R. Wang, I. Manchester (2020), Lipschitz bounded equilibrium networks.
        A. Havens et al. (2023), Exploiting connections between Lipschitz structures for certifiably
        robust deep equilibrium models.
    """

    w: Tensor
    u: Tensor
    v: Tensor
    d: Tensor
    b: Tensor
    c: Tensor
    metric: Tensor
    gamma: float
    linear: Tensor
    grid: Grid = None

    def __repr__(self) -> str:
        sizes = f"{self.u.shape[2]} -> {len(self.b)} -> {self.v.shape[1]}"
        return f"Form({sizes}, gamma={self.gamma:.6g}, grid={self.grid})"

    def __call__(self, x: Tensor, steps: int | None = None) -> Tensor:
        """Return y by Picard's iteration, exact after n + 1 steps where W is strictly triangular.

        Arguments:
            x: (B, d) or (B, d, H, W), float64.
            steps: how many; n + 1 by default.
        """
        given = act(self.u, x)
        given = given + spread(self.b, given)
        z = torch.zeros_like(given)
        for _ in range(len(self.b) + 1 if steps is None else steps):
            z = self.phi(act(self.w, z) + given)
        y = act(self.v, z) + act(self.d, x)
        return y + spread(self.c, y)

    def phi(self, v: Tensor) -> Tensor:
        """Return the activation of (B, n, ...)."""
        return torch.where(spread(self.linear, v), v, v.relu())

    def inequality(self) -> Tensor:
        """Return Q, hermitian (F, N, N): n rows where D = 0, else n + d."""
        q, lu = self._well_posed(), self.metric[:, None] * self.u
        if not bool(self.d.any()):
            return q - (self.v.mH @ self.v + lu @ lu.mH) / self.gamma
        wide = torch.cat((self.v, self.d), 2)
        eye = torch.eye(self.u.shape[2], dtype=q.dtype, device=q.device).expand(len(q), -1, -1)
        top, bottom = torch.cat((q, -lu), 2), torch.cat((-lu.mH, self.gamma * eye), 2)
        return torch.cat((top, bottom), 1) - wide.mH @ wide / self.gamma

    def lmi(self) -> tuple[Tensor, float]:
        """Return Q and its least eigenvalue, in double precision as computed."""
        q = self.inequality()
        return q, _least(q)

    def proved(self) -> float:
        """Return a Lipschitz constant that the inequality proves, in spite of rounding.

        Of two answers with Q >= -delta, as P >= Q + (V^T V + L U U^T L) / gamma,

            ||y - y'||^2 <= gamma^2 ||x - x'||^2 + gamma delta ||z - z'||^2.

        Where P >= p > 0 the inequality holds for gamma (1 + delta / p), as (1 - s) P + s Q >= 0
        for s = p / (p + delta). Where W is strictly triangular the equilibrium is there whatever P
        is, and ||z - z'|| <= ||(I - N)^-1|| ||U|| ||x - x'||, N the norms of W's entries. delta and
        p are widened by the rounding of Q, P and their eigenvalues, and of the blocks.

        Raises:
            ValueError: P is not proved to be positive definite, and W is not triangular; or a
                number is not finite, or gamma or an entry of the metric not above 0.
        """
        whole = self._checked()
        p, q = whole._well_posed(), whole.inequality()
        lw, lu = (whole.metric[:, None] * t for t in (whole.w, whole.u))
        v2, u2 = (float(torch.linalg.matrix_norm(t).amax()) ** 2 for t in (whole.v, lu))
        size = 2 * float(whole.metric.norm() + torch.linalg.matrix_norm(lw).amax())
        n = len(whole.b) + max(whole.u.shape[2], whole.v.shape[1]) + len(whole.w)
        slack = SLACK * n * UNIT * (size + (v2 + u2) / self.gamma)
        delta = max(0.0, slack - _least(q))
        least = _least(p) - slack
        bounds = [self.gamma * (1 + delta / least)] if least > 0 else []
        if not bool(whole.w.triu().any()):
            norms = whole.w.abs().amax(0)
            inverse = torch.linalg.inv(torch.eye(len(norms)).to(norms) - norms)
            reach = torch.linalg.matrix_norm(inverse) * torch.linalg.matrix_norm(
                whole.u.abs().amax(0)
            )
            reach = float(reach) * (1 + SLACK * n * UNIT)
            bounds.append(math.sqrt(self.gamma**2 + self.gamma * delta * reach**2))
        if not (bounds and math.isfinite(min(bounds))):
            raise ValueError(
                "the equilibrium is not proved to be well posed: the least eigenvalue of "
                f"2 L - L W - W^T L is {_least(p):.3g}, where above {slack:.1g} is needed"
            )
        return min(bounds) * (1 + 16 * UNIT)

    def scaled(self, scale: Tensor | None = None) -> Form:
        """Return the same map of the state `scale` z, sqrt(L) z by default, for which L = I.

        phi does not see scales that are above 0.
        """
        scale = self.metric.sqrt() if scale is None else scale
        return replace(
            self,
            w=scale[:, None] * self.w / scale,
            u=scale[:, None] * self.u,
            v=self.v / scale,
            b=scale * self.b,
            metric=self.metric / scale.square(),
        )

    def _checked(self) -> Form:
        """Return the form with D = 0 and P of diagonal 2, if its numbers admit of a proof."""
        numbers = (self.w, self.u, self.v, self.d, self.b, self.c, self.metric)
        if not all(bool(t.isfinite().all()) for t in numbers):
            raise ValueError("a weight, or what is computed from it, is not finite")
        if not (0 < self.gamma < math.inf and bool((self.metric > 0).all())):
            raise ValueError("gamma and the entries of the metric must be above 0 and finite")
        form = self.without_feedthrough()
        size = form._well_posed().diagonal(dim1=1, dim2=2).real.amax(0) / 2
        return form.scaled(torch.where(size > 0, size, form.metric).sqrt())

    def without_feedthrough(self) -> Form:
        """Return the same map with D = 0: identity neurons carry x to the output."""
        if len(self.b) and not bool(self.d.any()):
            return self
        count, size = len(self.w), self.u.shape[2]
        eye = torch.eye(size, dtype=self.u.dtype, device=self.u.device).expand(count, -1, -1)
        none = self.u.new_zeros(count, size, size + len(self.b))
        carried = self.metric.new_full((size,), self.gamma)
        return replace(
            self,
            w=torch.cat((none, torch.cat((self.u, self.w), 2)), 1),
            u=torch.cat((eye, torch.zeros_like(self.u)), 1),
            v=torch.cat((self.d, self.v), 2),
            d=torch.zeros_like(self.d),
            b=torch.cat((self.b.new_zeros(size), self.b)),
            metric=torch.cat((carried, self.metric)),
            linear=torch.cat((torch.ones_like(carried, dtype=torch.bool), self.linear)),
        )

    def then(self, last: Form) -> Form:
        """Return the map that applies this one and `last` to its answer; gammas multiply.

        Raises:
            ValueError: the sizes or the grids differ.
        """
        if self.grid != last.grid or self.v.shape[1] != last.u.shape[2]:
            raise ValueError(
                f"a map to {self.v.shape[1]} channels on grid {self.grid} cannot be followed by "
                f"one of {last.u.shape[2]} channels on grid {last.grid}."
            )
        above = self.w.new_zeros(len(self.w), len(self.b), len(last.b))
        below = torch.cat((last.u @ self.v, last.w), 2)
        return Form(
            w=torch.cat((torch.cat((self.w, above), 2), below), 1),
            u=torch.cat((self.u, last.u @ self.d), 1),
            v=torch.cat((last.d @ self.v, last.v), 2),
            d=last.d @ self.d,
            b=torch.cat((self.b, last.b + _constant(last.u, self.c))),
            c=last.c + _constant(last.d, self.c),
            metric=torch.cat((last.gamma * self.metric, last.metric / self.gamma)),
            gamma=self.gamma * last.gamma,
            linear=torch.cat((self.linear, last.linear)),
            grid=self.grid,
        )

    def moduli(self) -> tuple[float, float]:
        """Return m and l of I - W in the metric of L, by which splittings choose their steps."""
        w = self.scaled().w
        a = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device) - w
        return _least((a + a.mH) / 2), float(torch.linalg.matrix_norm(a, 2).amax())

    def pairwise(self, w: Tensor) -> Tensor:
        """Return a Lipschitz constant of <w, y> for each row of w, at most gamma ||w||, (K,):

            gamma_w^2 = min over s of w V (s P - s^2 L U U^T L)^-1 V^T w.

        Arguments:
            w: (K, k), as the differences of the rows of a last linear map.

        Raises:
            ValueError: the maps are no matrices, or nothing is `proved` of them.
        """
        if self.grid is not None:
            raise ValueError("pairwise takes a network of vectors; this one maps images.")
        form, w = self._checked(), w.double()
        lw, lu = (form.metric[:, None] * t[0] for t in (form.w, form.u))
        p, rows, gram = form._well_posed()[0], w @ form.v[0], lu @ lu.mT
        size, eye = torch.linalg.vector_norm(w, dim=1), torch.eye(len(p)).to(p)
        best: Tensor = self.proved() * size
        slack = SLACK * (len(p) + form.u.shape[2]) * UNIT
        first = 2 * float(form.metric.norm() + lw.norm())
        second = float(lu.norm()) ** 2
        for s in (torch.logspace(-3, 1, 81, dtype=w.dtype) / form.gamma).tolist():
            # What the differences round, and the factor: a solution is exact for a matrix nearby.
            widened = s * p - s**2 * gram - slack * (s * first + s**2 * second) * eye
            factor, info = torch.linalg.cholesky_ex(widened)
            if int(info) == 0:
                half, inverse = (
                    torch.linalg.solve_triangular(factor, of, upper=False) for of in (rows.mT, eye)
                )
                rounding = slack * float(inverse.norm() * form.v[0].norm()) * size  # of w V
                best = torch.minimum(best, torch.linalg.vector_norm(half, dim=0) + rounding)
        return best * (1 + 1e-9)

    def _well_posed(self) -> Tensor:
        lw = self.metric[:, None] * self.w
        return 2 * torch.diag(self.metric) - lw - lw.mH


def _constant(blocks: Tensor, c: Tensor) -> Tensor:
    """Return the product with a constant image: that of frequency 0."""
    return (blocks[0] @ c.to(blocks.dtype)).real


def _least(hermitian: Tensor) -> float:
    if hermitian.shape[-1] == 0:
        return float("inf")
    return float(torch.linalg.eigvalsh((hermitian + hermitian.mH) / 2).amin())
