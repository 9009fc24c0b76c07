"""Which changes are propagated: the threshold, and which entries move together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..norms import expand


class Together(Protocol):
    """Groups of entries: where one changes by more than the threshold, all of its group move.

    An entry that moves though it need not is propagated exactly, so any grouping is sound.
    """

    def most(self, size: Tensor) -> Tensor:
        """Return the largest |change| of each entry's group, of a shape that broadcasts to it.

        Arguments:
            size: |change|, (B, ...), of samples some of which may be NaN.
        """
        ...

    def scale(self, size: Tensor) -> Tensor:
        """Return what a threshold relative to the largest |change| is relative to, (B,)."""
        ...


@dataclass(frozen=True)
class Entries:
    """Each entry moves by itself: the fewest multiply-adds, at the cost of scattered memory."""

    def most(self, size: Tensor) -> Tensor:
        return size

    def scale(self, size: Tensor) -> Tensor:
        return size.flatten(1).amax(1)


@dataclass(frozen=True)
class Blocks:
    """What fast kernels compute together moves together.

    Of vectors, the same entry in all samples of the batch, with thresholds relative to the largest
    change of any: the samples' paths then depend on each other, their answers only within the
    tolerance. Of images, all channels of a tile in one sample.

    Arguments:
        tile: side of the tiles.
    """

    tile: int = 8

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise ValueError(f"tile must be at least 1; got {self.tile}.")

    def most(self, size: Tensor) -> Tensor:
        if size.dim() != 4:
            return size.nan_to_num(0.0).flatten(0, -2).amax(0)  # a NaN would speak for its mates
        most = torch.max_pool2d(size.amax(1, keepdim=True), self.tile, ceil_mode=True)
        for dim in (2, 3):
            most = most.repeat_interleave(self.tile, dim).narrow(dim, 0, size.shape[dim])
        return most

    def scale(self, size: Tensor) -> Tensor:
        if size.dim() == 4:
            return size.flatten(1).amax(1)
        return size.nan_to_num(0.0).amax().expand(len(size))


@dataclass(frozen=True)
class Limit:
    """A threshold for this step: tau, a number or one for each sample, (B,), and the groups."""

    tau: float | Tensor
    together: Together

    def far(self, change: Tensor, ratio: float = 1.0) -> Tensor:
        """Return which entries of a change (B, ...) are above `ratio` tau, or in such a group."""
        tau = expand(self.tau, change) if isinstance(self.tau, Tensor) else self.tau
        return self.together.most(change.abs()) > tau * ratio
