"""The symmetric part of I - W: its inverse, and the directions in which W is large beside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .bounds import symbol

DIRECTIONS = 16
"""Singular directions of S^-1/2 W in which a gap is measured, rather than bounded by its norm."""


@dataclass(frozen=True)
class Spectrum:
    """With S the symmetric part of I - W, in double precision:

    Arguments:
        solved: S^-1 c for the rows c of a matrix C, (K, n).
        pulled: W^T S^-1 c, (K, n).
        directions: the largest right singular vectors v_i of S^-1/2 W, (J, n).
        sizes: their singular values s_i, (J,).
        rest: the next singular value.
    """

    solved: Tensor
    pulled: Tensor
    directions: Tensor
    sizes: Tensor
    rest: float

    @classmethod
    def of(cls, shape: tuple[int, ...], weight: Tensor, c: Tensor) -> Spectrum:
        """Compute it for a weight on states of a shape and C, (K, n), in double precision."""
        return _dense(weight, c) if len(shape) == 1 else _circular(weight, c, shape)


def _dense(w: Tensor, c: Tensor) -> Spectrum:
    eye = torch.eye(w.shape[0], dtype=w.dtype, device=w.device)
    factor = torch.linalg.cholesky(eye - (w + w.mT) / 2)
    solved = torch.cholesky_solve(c.mT, factor).mT
    _, sizes, rows = torch.linalg.svd(torch.linalg.solve_triangular(factor, w, upper=False))
    kept = min(DIRECTIONS, len(sizes) - 1)
    return Spectrum(solved, solved @ w, rows[:kept], sizes[:kept], float(sizes[kept]))


def _circular(kernel: Tensor, c: Tensor, shape: tuple[int, ...]) -> Spectrum:
    """Go frequency by frequency: there a circular convolution is a block of C x C."""
    channels, height, width = shape
    blocks = symbol(kernel, height, width)
    eye = torch.eye(channels, dtype=blocks.dtype, device=blocks.device)
    factor = torch.linalg.cholesky(eye - (blocks + blocks.mH) / 2)
    waves = torch.fft.rfft2(c.view(-1, *shape)).permute(2, 3, 1, 0)  # (H, W', C, K)
    solved = torch.cholesky_solve(waves, factor)
    scaled = torch.linalg.solve_triangular(factor, blocks, upper=False)
    _, sizes, rows = torch.linalg.svd(scaled)

    def images(spectra: Tensor) -> Tensor:
        """Return the real images (R, n) with the spectra (R, C, H, W')."""
        real: Tensor = torch.fft.irfft2(spectra, s=(height, width))
        return real.flatten(1)

    found: list[Tensor] = []
    values: list[float] = []
    rest = 0.0
    order = sizes.flatten().argsort(descending=True).tolist()
    for place in order:
        rest = float(sizes.flatten()[place])
        if len(found) >= DIRECTIONS or place == order[-1]:
            break
        row, k = divmod(place, channels)
        a, b = divmod(row, width // 2 + 1)
        spectra = torch.zeros(2, channels, height, width // 2 + 1, dtype=blocks.dtype)
        spectra[0, :, a, b] = rows[a, b, k].conj()
        spectra[1, :, a, b] = 1j * rows[a, b, k].conj()
        # A wave and the wave a quarter turned; one of them where a frequency is its own
        # conjugate, and none where its conjugate has come before.
        for vector in images(spectra):
            whole = float(vector.norm())
            for other in found:
                vector = vector - (other @ vector) * other
            if float(vector.norm()) > 1e-6 * whole and whole > 1e-6 / (height * width):
                found.append(vector / vector.norm())
                values.append(rest)
    back, pulled = (images(w.permute(3, 2, 0, 1)) for w in (solved, blocks.mH @ solved))
    level = torch.tensor(values, dtype=torch.float64, device=kernel.device)
    directions = torch.stack(found) if found else c.new_zeros(0, c.shape[1])
    return Spectrum(back, pulled, directions.to(kernel.device), level, rest)
