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

    def relative(self, change: Tensor, theta: float, left: Tensor) -> Tensor:
        """Return theta times the largest |change|, of each sample, (B,), or one for all, ().

        Arguments:
            change: of the state, (B, ...).
            theta: in [0, 1).
            left: residual of each sample over its tolerance, (B,): one that meets it, or is much
                nearer to it than another, may wait for the others.
        """
        ...

    def shared(self, state: Tensor) -> bool:
        """Say whether groups reach across samples; these are then verified together, too."""
        ...


def peak(change: Tensor) -> Tensor:
    """Return the largest |change| of each sample, (B,)."""
    return largest(change.flatten(1), 1)


def largest(change: Tensor, dim: int, *, keepdim: bool = False) -> Tensor:
    """Return the largest |change| along a dimension, and make no |change| for it."""
    return torch.maximum(change.amax(dim, keepdim), -change.amin(dim, keepdim))


def replaced(far: Tensor, new: Tensor, old: Tensor) -> Tensor:
    """Return `new` where `far`, which broadcasts to it, and `old` elsewhere, in new memory.

    Whole pixels of images whose channels are last are copied, which `where` takes one by one.
    """
    pixels = old.dim() == 4 and far.dim() == 4 and far.shape[1] == 1 < old.shape[1]
    last = torch.channels_last
    if not (pixels and old.is_contiguous(memory_format=last) and new.stride() == old.stride()):
        return torch.where(far, new, old)
    rows = old.permute(0, 2, 3, 1).flatten(0, 2)
    index = far.expand(len(old), 1, *old.shape[2:]).flatten().nonzero().squeeze(1)
    some = new.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, index)
    copied = rows.index_copy(0, index, some)
    return copied.view(len(old), *old.shape[2:], -1).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Entries:
    """Each entry moves by itself: the fewest multiply-adds, at the cost of scattered memory."""

    def most(self, change: Tensor) -> Tensor:
        return change.abs()

    def relative(self, change: Tensor, theta: float, left: Tensor) -> Tensor:
        return theta * peak(change)

    def shared(self, state: Tensor) -> bool:
        return False


@dataclass(frozen=True)
class Blocks:
    """What fast kernels compute together moves together.

    Of vectors, the same entry in all samples of the batch, with one threshold relative to the
    largest change of any, and at most half of the largest change of each, but of those that are
    much nearer to their tolerance than another: so all get on, however far off one is. The
    samples' paths then depend on each other, their answers only within the tolerance. Of images,
    all channels of a tile in one sample.

    Arguments:
        tile: side of the tiles.
    """

    tile: int = 8

    def __post_init__(self) -> None:
        if self.tile < 1:
            raise ValueError(f"tile must be at least 1; got {self.tile}.")

    def most(self, change: Tensor) -> Tensor:
        if self.shared(change):
            return largest(change.flatten(0, -2), 0)
        most: Tensor = largest(change, 1, keepdim=True)
        if self.tile == 1:
            return most
        most = torch.max_pool2d(most, self.tile, ceil_mode=True)
        for dim in (2, 3):
            most = most.repeat_interleave(self.tile, dim).narrow(dim, 0, change.shape[dim])
        return most

    def relative(self, change: Tensor, theta: float, left: Tensor) -> Tensor:
        size = peak(change)
        if not self.shared(change):
            return theta * size
        size = size.nan_to_num(0.0, 0.0)  # what overflows holds up no mate
        near = left < min(theta / LEAST, LEAST) * left.nan_to_num(0.0, 0.0).amax()
        waiting = torch.where((left <= 1) | near | (size == 0), torch.inf, size)
        return torch.minimum(theta * size.amax(), max(theta, LEAST) * waiting.amin())

    def shared(self, state: Tensor) -> bool:
        return state.dim() != 4


@dataclass(frozen=True)
class Limit:
    """A threshold for this step: tau, for all samples or one for each, (B,), and the groups.

    Arguments:
        active: which entries of the state may have moved, as `solvers.structure.Threshold` has it.
        since: the state they moved from.
    """

    tau: float | Tensor
    together: Together
    active: Tensor | None = None
    since: Tensor | None = None

    def far(self, change: Tensor, ratio: float = 1.0) -> Tensor:
        """Return which entries of a change (B, ...) are above `ratio` tau, or in such a group.

        Where a group holds a NaN it moves: only the sample whose NaN it is comes to harm.
        """
        tau = self.tau
        if isinstance(tau, Tensor) and tau.dim() == 1:
            tau = expand(tau, change)
        return ~(self.together.most(change) <= tau * ratio)
