"""A convolution, brought up to date on the tiles of its result that have changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cost import Costs
from ..products import Convolution
from .layout import FIRST, LAST, layout
from .patience import LONGEST, Patience

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
    """

    read: Tensor
    write: Tensor
    patch: tuple[int, int]

    @classmethod
    def of(cls, convolution: Convolution, image: Tensor) -> Grid:
        """Return the tiles for images (B, n, H, W) whose sides some tile fits."""
        side, sizes = _sides(convolution, image), convolution.out(image)
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
        return cls(read[: len(write)], write, (patch[0], patch[1]))


def _padded(numbers: Tensor, convolution: Convolution, fill: int) -> Tensor:
    """Pad an image of pixel numbers as the convolution pads images."""
    if convolution.mode == "constant":
        return F.pad(numbers, convolution.padding, value=fill)[0, 0]
    # The other modes pad floating-point images alone; these hold such numbers exactly.
    return F.pad(numbers.double(), convolution.padding, mode=convolution.mode).long()[0, 0]


def _windows(image: Tensor, size: Sequence[int], step: Sequence[int]) -> Tensor:
    """Return the windows of an image (H, W) as rows, those that lie within it."""
    found = image.unfold(0, size[0], step[0]).unfold(1, size[1], step[1])
    return found.reshape(-1, size[0] * size[1])


class TiledProduct:
    """W r of images, computed anew on the tiles that a change can reach.

    A tile is computed from the reference, so that nothing adds up. The result lies in memory as
    the reference does. What is differentiated through is dense.

    Arguments:
        convolution: W.
        costs: the costs by whether channels are last, for so many tiles of all samples together
            and so much work in each; None where they are not known.
    """

    def __init__(
        self, convolution: Convolution, costs: Callable[[bool, int, int], Costs | None]
    ) -> None:
        self.convolution = convolution
        self.weights = {
            each.format: convolution.weight.contiguous(memory_format=each.format)
            for each in (FIRST, LAST)
        }
        self.costs = costs
        self._known: tuple[Any, Costs | None] = None, None
        self._grid: Any = None, None
        self.patience = Patience()

    def dense(self, reference: Tensor) -> Tensor:
        """Return W r of images r (B, n, H, W)."""
        weight = self.weights[layout(reference).format]
        return replace(self.convolution, weight=weight)(reference)

    def multiply_adds(self, x: Tensor) -> int:
        """Return how many `dense` takes, all samples together."""
        return self.convolution.multiply_adds(x)

    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Return W r and the multiply-adds that it took; see `products.Product`."""
        costs = self._costs(reference)
        if costs is None:
            self.patience.left = LONGEST
        if costs is None or torch.is_grad_enabled() or self.patience.waits():
            return self.dense(reference), self.multiply_adds(reference)
        grid = self._tiles(reference)
        batch, tiles = len(before), len(grid.read)
        if active is None or active.dim() != 4 or active.shape[1] > 1:
            found = _touched(reference - before)
        else:
            found = active[:, 0]
        touched = F.pad(found.expand(batch, *before.shape[2:]).flatten(1), (0, 1))
        reached = touched[:, grid.read.flatten()].view(batch, tiles, -1).any(2)
        found = reached.flatten().nonzero().squeeze(1)
        if len(found) == 0:
            return product, 0
        if not self.patience.pays(costs, costs.fresh(len(found))):
            return self.dense(reference), self.multiply_adds(reference)
        sample, tile = found // tiles, found % tiles
        source = grid.read.index_select(0, tile)
        outside = (source == before[0, 0].numel()).flatten().nonzero().squeeze(1)
        source.view(-1).index_fill_(0, outside, 0)
        patches = layout(reference).read(reference, sample, source)
        patches.view(-1, patches.shape[2]).index_fill_(0, outside, 0)
        images = patches.view(len(found), *grid.patch, -1).permute(0, 3, 1, 2)
        bare = replace(self.convolution, weight=self.weights[LAST.format], padding=(0, 0, 0, 0))
        computed = bare(images).permute(0, 2, 3, 1).flatten(1, 2)
        target = grid.write.index_select(0, tile)
        new = layout(product).written(product, sample, target, computed)
        return new, bare.multiply_adds(images)

    def pays(self, like: Tensor) -> bool:
        """Say whether it may pay to look for changes in images of a shape and layout."""
        costs = self._costs(like)
        return costs is not None and costs.worth

    def _costs(self, image: Tensor) -> Costs | None:
        """Return the costs for images like this one, None where it never pays to look."""
        last = layout(image) is LAST
        key = image.shape, last
        if self._known[0] != key:
            side, out = _sides(self.convolution, image), self.convolution.out(image)
            costs = None
            if 0 not in side and len(image):
                tiles = len(image) * (out[0] // side[0]) * (out[1] // side[1])
                costs = self.costs(last, tiles, self.convolution.multiply_adds(image) // tiles)
            self._known = key, costs if costs is not None and costs.looks else None
        return self._known[1]

    def _tiles(self, image: Tensor) -> Grid:
        key = image.shape[2:], image.device
        if self._grid[0] != key:
            self._grid = key, Grid.of(self.convolution, image)
        grid: Grid = self._grid[1]
        return grid


def _sides(convolution: Convolution, image: Tensor) -> tuple[int, int]:
    """Return height and width of a tile of the result, 0 where none fits."""
    height, width = (
        next((s for s in SIDES if size % s == 0), 0) for size in convolution.out(image)
    )
    return height, width


def _touched(change: Tensor) -> Tensor:
    """Return in which pixels of images (B, n, H, W) some channel has changed; NaN is a change."""
    return (change.amax(1) != 0) | (change.amin(1) != 0)
