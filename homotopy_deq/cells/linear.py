"""The linear parts of cells, with all that is known of them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from solvers.structure import Map

from .bounds import SLACK, UNIT, Bounds, gram_norm, symbol

L = TypeVar("L", bound="Linear")


@dataclass(frozen=True)
class Linear(ABC):
    """A linear map z -> W z of features or channels, which is block-diagonal in some unitary basis.

    It is `Structured`, as the solvers have it.

    Arguments:
        weight: (m, n), or (m, n, k, k) with k odd.
    """

    weight: Tensor

    @abstractmethod
    def __call__(self, z: Tensor) -> Tensor:
        """Return W z, (B, m, ...), of z, (B, n, ...)."""

    @property
    @abstractmethod
    def blocks(self) -> Tensor:
        """The blocks of W, (..., m, n)."""

    @abstractmethod
    def resolvent(self, alpha: float) -> Map:
        """Return v -> (I + alpha (I - W))^-1 v, from inverses of the blocks."""

    def columns(self: L, index: Tensor) -> L:
        """Return W restricted to changes of the features or channels `index`, int64 (k,)."""
        return replace(self, weight=self.weight.index_select(1, index))

    def multiply_adds(self, z: Tensor, *condition: Tensor) -> int:
        """Return how many W z takes, all samples together."""
        return z[:, 0].numel() * self.weight.numel()

    def lipschitz(self) -> float:
        """Return an upper bound of ||W||, of the numbers as they are stored, exact to rounding."""
        exact = self._doubled()
        return float(torch.linalg.svdvals(exact.blocks).amax()) + exact._slack

    def moduli(self) -> tuple[float, float]:
        """Return m and l of I - W in W's precision: to choose a step, not for a certificate."""
        blocks = replace(self, weight=self.weight.detach()).blocks
        a = _eye(blocks) - blocks
        return float(torch.linalg.eigvalsh((a + a.mH) / 2).amin()), float(gram_norm(a))

    def bounds(self) -> Bounds:
        """Return what is proved of W, of the numbers as they are stored.

        Raises:
            ValueError: I - W is not proved to be strongly monotone, or W is not finite.
        """
        exact = self._doubled()
        w, blocks = exact.weight, exact.blocks
        least = float(torch.linalg.eigvalsh(_eye(blocks) - (blocks + blocks.mH) / 2).amin())
        taps = tuple(range(2, w.dim()))
        rows, columns = (float(w.abs().sum((dim, *taps)).amax()) for dim in (1, 0))
        terms = w[0].numel()
        absolute = math.sqrt(rows * columns) * (1 + 4 * terms * UNIT)
        return Bounds(self.lipschitz(), least - exact._slack, absolute, terms)

    @property
    def _slack(self) -> float:
        # A block is a sum of taps of absolute value as they are, so its entries are too.
        taps = float(self.weight.square().sum((0, 1)).sqrt().sum())
        return SLACK * max(len(self.weight), self.weight[0].numel()) * UNIT * (1 + taps)

    def _doubled(self: L) -> L:
        w = self.weight.detach().double()
        if not bool(w.isfinite().all()):
            raise ValueError("nothing is proved of a weight that is not finite.")
        return replace(self, weight=w)


@dataclass(frozen=True)
class Matrix(Linear):
    """The product of a matrix (m, n) with vectors (B, n)."""

    def __call__(self, z: Tensor) -> Tensor:
        return F.linear(z, self.weight)

    @property
    def blocks(self) -> Tensor:
        return self.weight

    def resolvent(self, alpha: float) -> Map:
        return Matrix(torch.linalg.inv((1 + alpha) * _eye(self.weight) - alpha * self.weight))

    def transposed(self) -> Matrix:
        """Return W^T."""
        return Matrix(self.weight.mT)


@dataclass(frozen=True)
class Circular(Linear):
    """The circular convolution of images (B, n, height, width) with a kernel (m, n, k, k).

    Arguments:
        grid: height and width.
    """

    grid: tuple[int, int]

    def __call__(self, z: Tensor) -> Tensor:
        return circular(self.weight, z)

    @property
    def blocks(self) -> Tensor:
        return symbol(self.weight, *self.grid)

    def resolvent(self, alpha: float) -> Map:
        blocks = self.blocks
        inverse = torch.linalg.inv((1 + alpha) * _eye(blocks) - alpha * blocks)
        return Frequencies(inverse)

    def transposed(self) -> Circular:
        """Return W^T."""
        return replace(self, weight=self.weight.transpose(0, 1).flip(2, 3))


@dataclass(frozen=True)
class Frequencies:
    """The circular convolution of images (B, n, H, W) with given blocks.

    Arguments:
        blocks: (H, W // 2 + 1, m, n), one a frequency.
    """

    blocks: Tensor

    def __call__(self, z: Tensor) -> Tensor:
        return by_frequency(self.blocks, z)

    def transposed(self) -> Frequencies:
        """Return the transposed map."""
        return Frequencies(self.blocks.mH)


def circular(kernel: Tensor, x: Tensor) -> Tensor:
    """Return the circular convolution of images (B, n, H, W) with a kernel (m, n, k, k), k odd."""
    edge = kernel.shape[-1] // 2
    return F.conv2d(F.pad(x, (edge, edge, edge, edge), mode="circular"), kernel)


def by_frequency(blocks: Tensor, x: Tensor) -> Tensor:
    """Return the product of blocks (H, W // 2 + 1, m, n), one a frequency, with x (B, n, H, W)."""
    if not len(x):  # of which MKL has no transform
        return x.new_zeros(0, blocks.shape[-2], *x.shape[2:])
    if x.dtype.itemsize < 4:  # as under autocast, of which there is no transform either
        x = x.float()
    # (H, W', B, n), in that order in memory: else each frequency's product is one of its own.
    waves = torch.fft.rfft2(x).permute(2, 3, 0, 1).contiguous()
    waves = (waves @ blocks.mT).permute(2, 3, 0, 1)
    back: Tensor = torch.fft.irfft2(waves, s=x.shape[2:])
    return back


def _eye(blocks: Tensor) -> Tensor:
    return torch.eye(blocks.shape[-1], dtype=blocks.dtype, device=blocks.device)
