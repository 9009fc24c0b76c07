"""Which changes are propagated: the threshold, and which entries move together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..norms import expand

LEAST = 0.5
"""The largest share of a sample's own largest change that a threshold shared by the batch may be.

Measured on five heterogeneous models of 1024 entries, 64 samples: .3 loses up to half of what a
threshold without this limit saves, .5 up to a third, and on most nothing; with .9 the path of a
sample beside one far off is that of its single largest entries.
"""


class Together(Protocol):
    """Groups of entries: where one changes by more than the threshold, all of its group move.

    An entry that moves though it need not is propagated exactly, so any grouping is sound.
    """

    def most(self, change: Tensor) -> Tensor:
        """Return the largest |change| of each entry's group, of a shape that broadcasts to it.

        Arguments:
            change: (B, ...).
        """
        ...

    def relative(self, change: Tensor, theta: float, met: Tensor) -> Tensor:
        """Return theta times the largest |change|, of each sample, (B,), or one for all, ().

        Arguments:
            change: of the state, (B, ...).
            theta: in [0, 1).
            met: which samples meet their tolerance and wait for the others, bool (B,).
        """
        ...

    def shared(self, state: Tensor) -> bool:
        """Say whether groups reach across samples; these are then verified together, too."""
        ...


def peak(change: Tensor) -> Tensor:
    """Return the largest |change| of each sample, (B,)."""
    return change.abs().flatten(1).amax(1)


@dataclass(frozen=True)
class Entries:
    """Each entry moves by itself: the fewest multiply-adds, at the cost of scattered memory."""

    def most(self, change: Tensor) -> Tensor:
        return change.abs()

    def relative(self, change: Tensor, theta: float, met: Tensor) -> Tensor:
        return theta * peak(change)

    def shared(self, state: Tensor) -> bool:
        return False


@dataclass(frozen=True)
class Blocks:
    """What fast kernels compute together moves together.

    Of vectors, the same entry in all samples of the batch, with one threshold relative to the
    largest change of any, and at most half of the largest change of each: so all get on, however
    far off one is. The samples' paths then depend on each other, their answers only within the
    tolerance. Of images, all channels of a tile in one sample.

    Arguments:
        tile: side of the tiles.
    """

    tile: int = 8

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise ValueError(f"tile must be at least 1; got {self.tile}.")

    def most(self, change: Tensor) -> Tensor:
        if self.shared(change):
            return change.abs().flatten(0, -2).amax(0)
        most: Tensor = torch.max_pool2d(change.abs().amax(1, True), self.tile, ceil_mode=True)
        for dim in (2, 3):
            most = most.repeat_interleave(self.tile, dim).narrow(dim, 0, change.shape[dim])
        return most

    def relative(self, change: Tensor, theta: float, met: Tensor) -> Tensor:
        largest = peak(change)
        if not self.shared(change):
            return theta * largest
        largest = largest.nan_to_num(0.0, 0.0)  # what overflows holds up no mate
        waiting = torch.where(met | (largest == 0), torch.inf, largest)
        return torch.minimum(theta * largest.amax(), max(theta, LEAST) * waiting.amin())

    def shared(self, state: Tensor) -> bool:
        return state.dim() != 4


@dataclass(frozen=True)
class Limit:
    """A threshold for this step: tau, for all samples or one for each, (B,), and the groups."""

    tau: float | Tensor
    together: Together

    def far(self, change: Tensor, ratio: float = 1.0) -> Tensor:
        """Return which entries of a change (B, ...) are above `ratio` tau, or in such a group.

        Where a group holds a NaN it moves: only the sample whose NaN it is comes to harm.
        """
        tau = self.tau
        if isinstance(tau, Tensor) and tau.dim() == 1:
            tau = expand(tau, change)
        return ~(self.together.most(change) <= tau * ratio)
