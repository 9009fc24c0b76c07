"""A data set of images in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageData:
    """Hold the images and labels of one data set, split in train and test.

    Arguments:
        name: the data set's name in `DATASETS`.
        train_images: uint8, shape (N, C, H, W).
        train_labels: int64, shape (N,), each the position of a class in `classes`.
        test_images: uint8, shape (M, C, H, W).
        test_labels: int64, shape (M,).
        classes: the classes' names.
        source: where the images came from and how they were stored, to stand beside a result.
        root: the folder or file that they were read from; None where there is none.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]
    source: str = ""
    root: Path | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel over the train images, for images in [0, 1]."""
        return self._moments[0]

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation of each channel over the train images, for images in [0, 1].

        It is 0 for a channel that never changes: guard before dividing by it.
        """
        return self._moments[1]

    @cached_property
    def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        # From how often each of the 256 values occurs: exact, and no float copy of the images.
        values = torch.arange(256, dtype=torch.float64) / 255
        means, stds = [], []
        for channel in self.train_images.unbind(1):
            share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
            mean = share @ values
            means.append(mean.item())
            stds.append((share @ (values - mean).square()).sqrt().item())
        return tuple(means), tuple(stds)
