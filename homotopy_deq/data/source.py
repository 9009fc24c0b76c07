"""What a reader of stored images hands to `load`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Used wherever a data set comes without a test part. It is not the user's seed, so that runs with
# different seeds are judged on the same images.
TEST_SEED = 0
TEST_FRACTION = 0.2


@dataclass(frozen=True)
class Split:
    """Labels at hand, images to be read: a small subset need not decode all of them.

    Arguments:
        labels: int64, shape (N,).
        read: maps indices, shape (n,), to uint8 images, shape (n, C, H, W).
    """

    labels: Tensor
    read: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Found:
    """A stored data set; `test` is None where its layout has no test part."""

    train: Split
    test: Split | None
    classes: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Place:
    """One place to look: what would be there, and a call that opens it or returns None."""

    wanted: str
    open: Callable[[], Found | None]


def in_memory(images: np.ndarray, labels: np.ndarray) -> Split:
    """Make a split of arrays (N, C, H, W) and (N,)."""
    if len(images) != len(labels):
        raise ValueError(f"{len(images)} images but {len(labels)} labels: a file is incomplete.")
    stored = torch.from_numpy(images)
    return Split(torch.from_numpy(labels.astype(np.int64)), lambda index: stored[index])
