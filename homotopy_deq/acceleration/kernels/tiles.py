"""A convolution, brought up to date on the tiles of its result that have changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cost import Costs
from ..products import Convolution
from .patience import Patience

SIDE = 8
"""Pixels of a tile's side, where that divides the image: larger ones find less that is at rest,
smaller ones compute more of the halo."""
SIDES = (8, 7, 9, 6, 10, 5, 11, 12, 13, 14, 15, 16)


@dataclass(frozen=True)
class Grid:
    """Where the pixels of each tile of one image lie: numbers of pixels, row by row.

    Arguments:
        read: what a tile of the result is computed from, halo included, (tiles, pixels); the
            number after the last is a pixel that is 0.
        write: the tile, (tiles, pixels).
        patch: height and width of what is read.
        side: height and width of the tile.
    """

    read: Tensor
    write: Tensor
    patch: tuple[int, int]
    side: tuple[int, int]

    @classmethod
    def of(cls, convolution: Convolution, image: Tensor) -> Grid | None:
        """Return the tiles for images (B, n, H, W), or None where no side of a tile fits."""
        sizes = convolution.out(image)
        side = [next((s for s in SIDES if size % s == 0), 0) for size in sizes]
        if 0 in side:
            return None
        height, width = image.shape[2:]
        numbers = torch.arange(height * width, device=image.device).view(1, 1, height, width)
        padded = _padded(numbers, convolution, fill=height * width)
        kernel, steps = convolution.weight.shape[2:], convolution.stride
        patch = [
            (s - 1) * step + d * (k - 1) + 1
            for s, step, d, k in zip(side, steps, convolution.dilation, kernel, strict=True)
        ]
        read = _windows(padded, patch, [s * step for s, step in zip(side, steps, strict=True)])
        grid = torch.arange(sizes[0] * sizes[1], device=image.device).view(sizes)
        write = _windows(grid, side, side)
        return cls(read[: len(write)], write, (patch[0], patch[1]), (side[0], side[1]))


def _padded(numbers: Tensor, convolution: Convolution, fill: int) -> Tensor:
    """Pad an image of pixel numbers as the convolution pads images."""
    if convolution.mode == "constant":
        return F.pad(numbers, convolution.padding, value=fill)[0, 0]
    # The other modes pad floating-point images alone; these hold such numbers exactly.
    return F.pad(numbers.double(), convolution.padding, mode=convolution.mode).long()[0, 0]


def _windows(image: Tensor, size: list[int], step: list[int]) -> Tensor:
    """Return the windows of an image (H, W) as rows, those that lie within it."""
    found = image.unfold(0, size[0], step[0]).unfold(1, size[1], step[1])
    return found.reshape(-1, size[0] * size[1])


class TiledProduct:
    """W r of images, computed anew on the tiles that a change can reach.

    A tile is computed from the reference, so that nothing adds up. Images are kept with their
    channels last, where a pixel is one piece of memory.

    Arguments:
        convolution: W.
        costs: the costs for so many tiles of all samples together, and None where none are known.
    """

    def __init__(self, convolution: Convolution, costs: Callable[[int, int], Costs | None]) -> None:
        weight = convolution.weight.contiguous(memory_format=torch.channels_last)
        self.convolution = Convolution(**{**vars(convolution), "weight": weight})
        self.bare = Convolution(
            weight, convolution.stride, dilation=convolution.dilation, groups=convolution.groups
        )
        self.costs = costs
        self._key: tuple[torch.Size, torch.device] | None = None
        self._grid: Grid | None = None
        self._cost: Costs | None = None
        self._patience = Patience()

    def dense(self, reference: Tensor) -> Tensor:
        """Return W r of images r (B, n, H, W)."""
        return self.convolution(reference.contiguous(memory_format=torch.channels_last))

    def multiply_adds(self, x: Tensor) -> int:
        """Return how many `dense` takes, all samples together."""
        return self.convolution.multiply_adds(x)

    def moved(self, product: Tensor, change: Tensor, reference: Tensor) -> tuple[Tensor, int]:
        """Return W r and the multiply-adds that it took; see `products.Product`."""
        grid, costs = self._of(change)
        if grid is None or costs is None or self._patience.waits():
            return self.dense(reference), self.multiply_adds(reference)
        batch, tiles = len(change), len(grid.read)
        touched = F.pad(_touched(change).flatten(1), (0, 1))
        active = touched[:, grid.read.flatten()].view(batch, tiles, -1).any(2)
        found = active.flatten().nonzero().squeeze(1)
        if len(found) == 0:
            return product, 0
        if not self._patience.pays(costs, costs.fresh(len(found))):
            return self.dense(reference), self.multiply_adds(reference)
        sample, tile = found // tiles, found % tiles
        pixels = _pixels(reference)
        source = grid.read.index_select(0, tile)
        outside = (source == change[0, 0].numel()).flatten().nonzero().squeeze(1)
        source = (source + sample[:, None] * change[0, 0].numel()).flatten()
        patches = pixels.index_select(0, source.index_fill_(0, outside, 0))
        patches = patches.index_fill_(0, outside, 0)
        images = patches.view(len(found), *grid.patch, -1).permute(0, 3, 1, 2)
        computed = self.bare(images)
        target = grid.write.index_select(0, tile) + sample[:, None] * product[0, 0].numel()
        new = _pixels(product).index_copy(0, target.flatten(), _pixels(computed))
        shape = (batch, *product.shape[2:], product.shape[1])
        return new.view(shape).permute(0, 3, 1, 2), self.bare.multiply_adds(images)

    def _of(self, image: Tensor) -> tuple[Grid | None, Costs | None]:
        """Return the tiles and the costs for images like this one."""
        key = image.shape, image.device
        if self._key != key:
            self._key, self._grid, self._cost = key, Grid.of(self.convolution, image), None
            if self._grid is not None:
                tiles, area = self._grid.write.shape
                each = self.convolution.multiply_adds(image[:1]) // tiles
                costs = self.costs(len(image) * tiles, each)
                self._cost = costs if costs is not None and costs.looks else None
        return self._grid, self._cost


def _touched(change: Tensor) -> Tensor:
    """Return in which pixels of images (B, n, H, W) some channel has changed; NaN is a change."""
    return (change.amax(1) != 0) | (change.amin(1) != 0)


def _pixels(image: Tensor) -> Tensor:
    """Return images (B, n, H, W) as rows of channels, (B H W, n); no copy if channels are last."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])
