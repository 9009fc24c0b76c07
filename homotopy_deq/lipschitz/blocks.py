"""Linear maps as blocks: a matrix is one, a circular convolution one for each frequency."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cells.bounds import symbol
from ..cells.linear import by_frequency, circular

Grid = tuple[int, int] | None
"""Height and width of the images that a circular convolution acts on; None for a matrix."""


def blocks_of(weight: Tensor, grid: Grid) -> Tensor:
    """Return the blocks (F, m, n) of a matrix (m, n), real, or a kernel (m, n, k, k), complex."""
    return weight.unsqueeze(0) if grid is None else symbol(weight, *grid).flatten(0, 1)


def kernel_of(blocks: Tensor, grid: Grid) -> Tensor:
    """Return the matrix, or the kernel (m, n, H, W) of the full grid, that has the blocks.

    Its entry [0, 0] is the tap in place, as `spectrum` reads it.
    """
    if grid is None:
        return blocks[0]
    waves = blocks.view(grid[0], grid[1] // 2 + 1, *blocks.shape[1:]).permute(2, 3, 0, 1)
    kernel: Tensor = torch.fft.irfft2(waves.conj(), s=grid)
    return kernel


def spectrum(kernel: Tensor, grid: Grid) -> Tensor:
    """Return the blocks (F, m, n) of a matrix, or of a kernel (m, n, H, W) of the full grid.

    A real kernel has blocks that are conjugate at opposite frequencies, whatever its numbers are,
    so parameters of this form cannot leave the real convolutions.
    """
    if grid is None:
        return kernel.unsqueeze(0)
    waves: Tensor = torch.fft.rfft2(kernel).conj()
    return waves.permute(2, 3, 0, 1).flatten(0, 1)


def act(blocks: Tensor, x: Tensor) -> Tensor:
    """Return the product of blocks (F, m, n) with a batch x, (B, n) or (B, n, H, W)."""
    if x.dim() == 2:
        return F.linear(x, blocks[0])
    height, width = x.shape[2:]
    return by_frequency(blocks.view(height, width // 2 + 1, *blocks.shape[1:]), x)


def convolve(kernel: Tensor, x: Tensor, *, transposed: bool = False) -> Tensor:
    """Return K x or K^T x for a matrix K (m, n), or a circular convolution K (m, n, k, k)."""
    if x.dim() == 2:
        return F.linear(x, kernel.mT if transposed else kernel)
    if transposed:
        kernel = kernel.transpose(0, 1).flip(2, 3)
    return circular(kernel, x)


def spread(bias: Tensor, like: Tensor) -> Tensor:
    """Reshape a vector (n,) of channels to add it to a batch (B, n) or (B, n, H, W)."""
    return bias.view(-1, *(1,) * (like.dim() - 2))


def row_sums(kernel: Tensor) -> Tensor:
    """Return | K K^T |, each entry's absolute value summed over the offsets, (m, m).

    For a convolution an entry bounds what one channel does to another at any place, with circular
    padding and with zeros.
    """
    if kernel.dim() == 2:
        return (kernel @ kernel.mT).abs()
    edge = kernel.shape[-1] - 1
    return F.conv2d(kernel, kernel, padding=edge).abs().sum((2, 3))
