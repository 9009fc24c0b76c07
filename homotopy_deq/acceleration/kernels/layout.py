"""Read and write some pixels of images, in either order of their memory."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Layout(Protocol):
    """How images (B, n, H, W) lie in memory. Pixels are named by sample and by number, (k, p)."""

    format: torch.memory_format

    def read(self, image: Tensor, sample: Tensor, pixel: Tensor) -> Tensor:
        """Return some pixels with all channels, (k, p, n)."""
        ...

    def written(self, image: Tensor, sample: Tensor, pixel: Tensor, values: Tensor) -> Tensor:
        """Return images with some pixels replaced by values (k, p, n)."""
        ...


class ChannelsFirst:
    """Plane after plane, as torch makes them."""

    format = torch.contiguous_format

    def read(self, image: Tensor, sample: Tensor, pixel: Tensor) -> Tensor:
        return image.flatten(2)[sample[:, None], :, pixel]

    def written(self, image: Tensor, sample: Tensor, pixel: Tensor, values: Tensor) -> Tensor:
        new = image.clone(memory_format=torch.contiguous_format)
        new.flatten(2)[sample[:, None], :, pixel] = values
        return new


class ChannelsLast:
    """Pixel after pixel: each is one piece of memory, and convolutions are faster."""

    format = torch.channels_last

    def read(self, image: Tensor, sample: Tensor, pixel: Tensor) -> Tensor:
        found = _rows(image).index_select(0, _places(image, sample, pixel))
        return found.view(*pixel.shape, -1)

    def written(self, image: Tensor, sample: Tensor, pixel: Tensor, values: Tensor) -> Tensor:
        places = _places(image, sample, pixel)
        new = _rows(image).index_copy(0, places, values.flatten(0, 1))
        batch, channels, *size = image.shape
        return new.view(batch, *size, channels).permute(0, 3, 1, 2)


FIRST, LAST = ChannelsFirst(), ChannelsLast()


def layout(image: Tensor) -> Layout:
    """Return how images lie in memory: channels first where it could be either."""
    last = not image.is_contiguous() and image.is_contiguous(memory_format=torch.channels_last)
    return LAST if last else FIRST


def _rows(image: Tensor) -> Tensor:
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def _places(image: Tensor, sample: Tensor, pixel: Tensor) -> Tensor:
    return (pixel + sample[:, None] * image[0, 0].numel()).flatten()
