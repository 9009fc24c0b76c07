"""Batches in an order that a killed run can take up again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from .augmentation import Augmentation

SHUFFLE = 0  # tells its random numbers from those of the augmentation
Batch = tuple[Tensor, Tensor]
T = TypeVar("T")


class EpochSampler(Sampler[int]):
    """Draw the samples of one epoch in an order that is a function of (seed, epoch) alone.

    Draw d stands for sample d mod n as seen in epoch d // n, so the one integer that travels to
    a worker or another process says all that the augmentation needs.

    Arguments:
        n: the number of samples.
        seed: 0 or more.
        epoch: 0 or more.
        start: how many draws of the epoch to skip: batches done times the batch size.
        shuffle: False gives the samples in their stored order.
    """

    def __init__(
        self, n: int, seed: int = 0, epoch: int = 0, start: int = 0, *, shuffle: bool = True
    ) -> None:
        self.n = n
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = epoch
        self.start = start
        self.set_epoch(epoch, start)

    def set_epoch(self, epoch: int, start: int | None = None) -> None:
        """Go to an epoch, and to a draw in it.

        Without `start`, the same epoch keeps its start and another begins at 0: accelerate names
        the epoch once more when an iteration begins, and must not undo a resumed start.
        """
        if start is None:
            start = self.start if epoch == self.epoch else 0
        if epoch < 0 or not 0 <= start <= self.n:
            raise ValueError(
                f"epoch must be 0 or more and start in [0, {self.n}]; got {epoch} and {start}."
            )
        self.epoch = epoch
        self.start = start

    def order(self) -> Tensor:
        """The order of this epoch's samples: a permutation of 0..n-1, from the epoch's start."""
        if not self.shuffle:
            return torch.arange(self.n)
        rng = np.random.default_rng([self.seed, self.epoch, SHUFFLE])
        return torch.from_numpy(rng.permutation(self.n))

    def __iter__(self) -> Iterator[int]:
        yield from (self.order()[self.start :] + self.epoch * self.n).tolist()

    def __len__(self) -> int:
        return self.n - self.start


class Images(Dataset[Batch]):
    """Turn draws of an `EpochSampler` into images, a whole batch at a time.

    Arguments:
        images: uint8, shape (N, C, H, W).
        labels: int64, shape (N,).
        augment: None leaves the images as they are.
        seed: of the augmentation; 0 or more.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, augment: Augmentation | None, seed: int
    ) -> None:
        self.images = images
        self.labels = labels
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: int) -> Batch:
        images, labels = self.__getitems__([draw])
        return images[0], labels[0]

    def __getitems__(self, draws: list[int]) -> Batch:
        """Read a batch: float images in [0, 1], shape (B, C, H, W), and labels, shape (B,)."""
        drawn = torch.tensor(draws)
        index = drawn % len(self)
        images = self.images[index]
        if self.augment is not None:
            epoch = draws[0] // len(self)  # a batch never spans two epochs
            images = self.augment(images, index, len(self), self.seed, epoch)
        return images.float().div_(255), self.labels[index]


def loader(
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    *,
    shuffle: bool,
    augment: Augmentation | None = None,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """Load batches of float images in [0, 1] and labels; a model normalises inside itself.

    Order and augmentation are functions of (seed, epoch): `seek(loader, epoch, batch)` goes to
    any place in any epoch, and what follows is what an unbroken run would have seen. Iterating
    draws no number from torch's global generator.

    Arguments:
        images: uint8, shape (N, C, H, W).
        labels: int64, shape (N,).
        batch_size: images a batch; the last may be smaller unless `drop_last`.
        shuffle: reorder in each epoch (train) or keep the stored order (test).
        augment: random changes, for train images.
        seed: 0 or more.
        drop_last: leave out a last batch that is not full.
        num_workers: processes that read ahead; 0 reads in this one, as fast for images in memory.
        pin_memory: stage batches for faster copies to a GPU.
    """
    if len(images) != len(labels):
        raise ValueError(f"each image needs a label; got {len(images)} and {len(labels)}.")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
    sampler = EpochSampler(len(images), seed, shuffle=shuffle)
    return DataLoader(
        Images(images, labels, augment, seed),
        batch_sampler=BatchSampler(sampler, batch_size, drop_last),
        collate_fn=_as_it_is,  # __getitems__ has made the batch
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # or DataLoader would draw from the global one
    )


def seek(loader: DataLoader[Batch], epoch: int, batch: int = 0) -> None:
    """Go to an epoch, and to a batch in it, before iterating.

    With several processes, accelerate fills up a last batch that is not full from the first
    samples it is given, which are others after a resumption: say `drop_last=True` to train so.

    Arguments:
        loader: what `loader` returned, or what accelerate's `prepare` made of it.
        epoch: 0 or more.
        batch: how many batches of this process to skip: those that were done before.
    """
    if hasattr(loader, "set_epoch"):  # accelerate keeps a count of its own
        cast("Any", loader).set_epoch(epoch)
    sampler: Any = loader.batch_sampler
    skipped = batch * sampler.batch_size
    while not isinstance(sampler, EpochSampler):
        if hasattr(sampler, "num_processes") and not sampler.split_batches:
            skipped *= sampler.num_processes  # the processes take turns at the batches
        sampler = getattr(sampler, "batch_sampler", None) or sampler.sampler
    sampler.set_epoch(epoch, min(skipped, sampler.n))


def _as_it_is(batch: T) -> T:
    return batch
