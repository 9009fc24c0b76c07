"""Random changes to train images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

AUGMENT = 1  # tells its random numbers from those of the shuffling


@dataclass(frozen=True)
class Augmentation:
    """Mirror an image with probability `flip`, and crop it at random after padding with black.

    What happens to an image is a function of (seed, epoch, its index) alone: not of the batch it
    is in, of the worker that reads it, or of a run that was killed and resumed.

    Arguments:
        flip: the probability of mirroring left to right, in [0, 1].
        pad: pixels of black on each side, of which a random crop of the old size keeps some.
    """

    flip: float = 0.0
    pad: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip is a probability in [0, 1]; got {self.flip}.")
        if self.pad < 0:
            raise ValueError(f"pad is a number of pixels, 0 or more; got {self.pad}.")

    def __call__(self, images: Tensor, index: Tensor, n: int, seed: int, epoch: int) -> Tensor:
        """Change a batch.

        Arguments:
            images: any dtype, shape (B, C, H, W).
            index: int64, shape (B,): which of the n images of the data set these are.
            n: the size of the data set.
            seed: 0 or more.
            epoch: 0 or more.
        """
        chance, shift = _drawn(n, seed, epoch)
        if self.pad:
            steps = (shift[index] * (2 * self.pad + 1)).long()  # uniform on 0..2 pad
            images = _crop(images, steps, self.pad)
        if self.flip:
            images = _mirror(images, chance[index] < self.flip)
        return images


@lru_cache(maxsize=4)
def _drawn(n: int, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Draw for a whole epoch, uniform on [0, 1): one number and one pair for each image."""
    drawn = np.random.default_rng([seed, epoch, AUGMENT]).random((n, 3))
    return torch.from_numpy(drawn[:, 0]), torch.from_numpy(drawn[:, 1:])


def _crop(images: Tensor, steps: Tensor, pad: int) -> Tensor:
    height, width = images.shape[2:]
    # Every crop is a window of the padded image; a view of all windows copies only those chosen.
    windows = functional.pad(images, 4 * [pad]).unfold(2, height, 1).unfold(3, width, 1)
    crops: Tensor = windows[torch.arange(len(images)), :, steps[:, 0], steps[:, 1]]
    return crops


def _mirror(images: Tensor, chosen: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], images.flip(3), images)
