"""Count the multiply-adds of what has changed, entry by entry, as the DeltaDEQ paper counts.

Products are computed densely here: what is counted is what changes need, the area of a kernel
included (which the release leaves out), whatever hardware could skip single entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from homotopy_deq.acceleration import Convolution, Product, Simulated


@dataclass(frozen=True)
class CountedMatrix:
    """W r, at the count of the entries of r that have changed."""

    product: Product
    outputs: int

    def dense(self, reference: Tensor) -> Tensor:
        return self.product.dense(reference)

    def multiply_adds(self, x: Tensor) -> int:
        return self.product.multiply_adds(x)

    def moved(self, product: Tensor, change: Tensor, reference: Tensor) -> tuple[Tensor, int]:
        return self.dense(reference), int(change.count_nonzero()) * self.outputs


@dataclass(frozen=True)
class CountedKernel:
    """A convolution of r, at the count of what has changed.

    Arguments:
        tile: None counts single entries: each goes into the outputs under the kernel. A number
            counts whole tiles of so many outputs a side, in all channels, of which one has changed.
    """

    product: Product
    convolution: Convolution
    tile: int | None

    def dense(self, reference: Tensor) -> Tensor:
        return self.product.dense(reference)

    def multiply_adds(self, x: Tensor) -> int:
        return self.product.multiply_adds(x)

    def moved(self, product: Tensor, change: Tensor, reference: Tensor) -> tuple[Tensor, int]:
        count = self._entries(change) if self.tile is None else self._tiles(change, self.tile)
        return self.dense(reference), count

    def _entries(self, change: Tensor) -> int:
        plan = self.convolution
        ones = torch.ones(1, 1, *plan.weight.shape[2:], device=change.device)
        out = torch.ones(1, 1, *plan.out(change), device=change.device)
        reach = F.conv_transpose2d(out, ones, stride=plan.stride, dilation=plan.dilation)
        left, _, top, _ = plan.padding
        reach = F.pad(reach, (0, change.shape[3], 0, change.shape[2]))  # rows that no output sees
        reach = reach[:, :, top : top + change.shape[2], left : left + change.shape[3]]
        changed = change.ne(0).sum(1, keepdim=True)
        return int((changed * reach).sum()) * plan.weight.shape[0] // plan.groups

    def _tiles(self, change: Tensor, tile: int) -> int:
        plan = self.convolution
        ones = torch.ones(1, 1, *plan.weight.shape[2:], device=change.device)
        changed = change.ne(0).any(1, keepdim=True).float()
        touched = F.conv2d(changed, ones, None, plan.stride, _even(plan), plan.dilation) > 0
        whole = F.max_pool2d(touched.float(), tile, ceil_mode=True)
        area = F.avg_pool2d(
            torch.ones_like(touched[:1], dtype=torch.float32), tile, ceil_mode=True,
            divisor_override=1,
        )  # fmt: skip
        return int((whole * area).sum()) * plan.weight.numel()


def _even(plan: Convolution) -> tuple[int, int]:
    left, right, top, bottom = plan.padding
    if left != right or top != bottom or plan.mode != "constant":
        raise ValueError(f"tiles are counted of zero padding, the same on both sides; got {plan}.")
    return top, left


@dataclass(frozen=True)
class Entries:
    """Products that are computed densely, and counted by what has changed.

    Arguments:
        tile: see `CountedKernel`.
    """

    tile: int | None = None

    def linear(self, weight: Tensor) -> Product:
        return CountedMatrix(Simulated().linear(weight), len(weight))

    def convolution(self, convolution: Convolution) -> Product:
        dense = Simulated().convolution(convolution)
        return CountedKernel(dense, convolution, self.tile)
