"""Bounds on linear functions of the equilibrium of z = relu(W z + x)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .bounds import Bounds, symbol
from .inclusion import InclusionCell

ROUNDING = 1e-6
"""Share of the plain bound ||c|| ||W|| ||d|| / m that is added to the sharp one.

It covers the double-precision error of S^-1 c and W^T S^-1 c, which is about n u cond(S) <= 1e-9
of it for n cond(S) <= 1e7.
"""
WORST = 1e7


@dataclass(frozen=True)
class FunctionalBound:
    """What an evaluation fz of relu(W z + x) says of C z*, for the rows c of a matrix C.

    With d = z - fz, S the symmetric part of I - W, and ||c||_S = (c^T S^-1 c)^1/2,

        | c (fz - z*) - c S^-1 W d / 2 | <= ||c||_S (||S^-1/2 W|| ||d|| / 2 + eta / sqrt(m)).

    Derivation: with e = W d + (the rounding of fz, at most eta in norm), `error_bound` shows that
    <S y, y> <= <e, y> for y = fz - z*. That is a ball in the norm of S around S^-1 e / 2 with the
    radius ||S^-1/2 e|| / 2, over which a linear function is largest at the centre plus
    ||c||_S times the radius. Unlike ||c|| ||y|| <= ||c|| ||W|| ||d|| / m it pays the small
    eigenvalues of S only in their own directions, and it knows where the centre is.

    Arguments:
        value: C, (K, n).
        slope: W^T S^-1 C^T / 2, transposed, (K, n): the shift of the centre for a unit of d.
        gram: C S^-1 C^T, (K, K).
        gain: upper bound of ||S^-1/2 W||.
        plain: upper bound of ||W|| / m.
        bounds: of the cell.
    """

    value: Tensor
    slope: Tensor
    gram: Tensor
    gain: float
    plain: float
    bounds: Bounds

    @classmethod
    def of(cls, cell: InclusionCell, value: Tensor) -> FunctionalBound:
        """Compute the bound of a cell's present weight, in double precision.

        Arguments:
            cell: gives W. Its W must not change as long as the bound is used: see `FixedCell`.
            value: C, (K, n), on the flattened state.

        Raises:
            ValueError: I - W is not proved to be strongly monotone, or too badly conditioned for
                double precision.
        """
        weight = cell.weight().detach().double()
        bounds = cell.bounds(weight)
        c = value.detach().double()
        condition = c.shape[1] * (1 + bounds.norm) / bounds.monotonicity
        if condition > WORST:
            raise ValueError(
                f"I - W has condition number times size {condition:.1e}, above {WORST:.0e}: "
                "rounding in double precision is not covered."
            )
        solved, pulled, gain = _dense(weight, c) if cell.dense else _circular(weight, c, cell.shape)
        plain = bounds.norm / bounds.monotonicity
        return cls(c, pulled / 2, c @ solved.mT, gain * (1 + ROUNDING), plain, bounds)

    def sizes(self) -> Tensor:
        """Return upper bounds of ||C_i - C_j||_S and of its 2-norm, (2, K, K)."""
        diagonal = self.gram.diagonal()
        squared = diagonal[:, None] + diagonal - self.gram - self.gram.mT
        apart = torch.linalg.vector_norm(self.value[:, None] - self.value, dim=2)
        slack = ROUNDING * apart**2 / self.bounds.monotonicity
        return torch.stack((squared.clamp_min(0).add(slack).sqrt(), apart * (1 + ROUNDING)))

    def center(self, z: Tensor, fz: Tensor) -> tuple[Tensor, Tensor]:
        """Return C times the centre of the ball that z* is in, (B, K), and ||z - fz||, (B,)."""
        image = fz.flatten(1).double()
        gap = z.flatten(1).double() - image
        at = image @ self.value.mT - gap @ self.slope.mT
        return at, torch.linalg.vector_norm(gap, dim=1) * (1 + ROUNDING)

    def radius(self, length: Tensor, eta: Tensor, sizes: Tensor) -> Tensor:
        """Return how far (C_i - C_j) z* may be from its value at the centre, (B, K) or (1, K).

        Arguments:
            length: ||z - fz|| as `center` returns it, (B,).
            eta: `bounds.rounding` of the evaluation, (B,).
            sizes: of the differences, rows of `sizes()`, (2, B, K) or (2, 1, K).
        """
        weighted, plain = sizes
        spread = self.gain / 2 * weighted + ROUNDING * self.plain * plain
        slack = weighted / self.bounds.monotonicity**0.5
        distance: Tensor = length[:, None] * spread + eta[:, None] * slack
        return distance


def _dense(w: Tensor, c: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return S^-1 C^T and W^T S^-1 C^T, both transposed, and ||S^-1/2 W||."""
    eye = torch.eye(w.shape[0], dtype=w.dtype, device=w.device)
    factor = torch.linalg.cholesky(eye - (w + w.mT) / 2)
    solved = torch.cholesky_solve(c.mT, factor).mT
    gain = torch.linalg.svdvals(torch.linalg.solve_triangular(factor, w, upper=False))[0]
    return solved, solved @ w, float(gain)


def _circular(kernel: Tensor, c: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, float]:
    """Do the same frequency by frequency for a circular convolution."""
    channels, height, width = shape
    blocks = symbol(kernel, height, width)
    eye = torch.eye(channels, dtype=blocks.dtype, device=blocks.device)
    factor = torch.linalg.cholesky(eye - (blocks + blocks.mH) / 2)
    waves = torch.fft.rfft2(c.view(-1, *shape)).permute(2, 3, 1, 0)  # (H, W', C, K)
    solved = torch.cholesky_solve(waves, factor)
    gain = torch.linalg.svdvals(torch.linalg.solve_triangular(factor, blocks, upper=False)).amax()
    back, pulled = (
        torch.fft.irfft2(each.permute(3, 2, 0, 1), s=(height, width)).flatten(1)
        for each in (solved, blocks.mH @ solved)
    )
    return back, pulled, float(gain)
