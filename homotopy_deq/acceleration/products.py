"""How a layer's product with its reference is kept up to date: what a fast kernel implements."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Convolution:
    """A convolution of images without its bias, as `nn.Conv2d` has it.

    Arguments:
        weight: (m, n / groups, kh, kw).
        stride: down and right.
        padding: of the image before the convolution: left, right, top, bottom, as `F.pad` takes it.
        mode: of the padding, as `F.pad` names it: "constant" (zeros), "circular", ...
        dilation: down and right.
        groups: of channels.
    """

    weight: Tensor
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    mode: str = "constant"
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Convolution:
        """Return the convolution of a layer, with its weight as it is now."""
        left, right, top, bottom = layer._reversed_padding_repeated_twice
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        (sy, sx), (dy, dx) = layer.stride, layer.dilation
        padding = (left, right, top, bottom)
        return cls(layer.weight, (sy, sx), padding, mode, (dy, dx), layer.groups)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the convolution of images (B, n, H, W) densely, (B, m, H', W')."""
        left, right, top, bottom = self.padding
        if self.mode == "constant" and left == right and top == bottom:
            padding, image = (top, left), x
        else:
            padding, image = (0, 0), F.pad(x, self.padding, mode=self.mode)
        return F.conv2d(image, self.weight, None, self.stride, padding, self.dilation, self.groups)

    def out(self, x: Tensor) -> tuple[int, int]:
        """Return H' and W' of the result for images (B, n, H, W)."""
        left, right, top, bottom = self.padding
        kh, kw = self.weight.shape[2:]
        height = x.shape[2] + top + bottom - self.dilation[0] * (kh - 1) - 1
        width = x.shape[3] + left + right - self.dilation[1] * (kw - 1) - 1
        return height // self.stride[0] + 1, width // self.stride[1] + 1

    def multiply_adds(self, x: Tensor) -> int:
        """Return how many the dense convolution takes, the kernel's area included."""
        return x.shape[0] * math.prod(self.out(x)) * self.weight.numel()

    def reads(self, x: Tensor) -> Tensor:
        """Return how often each pixel of x is multiplied by a weight, in one channel, (H, W)."""
        tap = self.weight.new_ones(1, 1, *self.weight.shape[2:])
        one = Convolution(**{**vars(self), "weight": tap, "groups": 1})
        with torch.enable_grad():
            pixels = self.weight.new_zeros(1, 1, *x.shape[2:], requires_grad=True)
            (taps,) = torch.autograd.grad(one(pixels).sum(), pixels)
        return taps[0, 0] * (len(self.weight) // self.groups)


class Product(Protocol):
    """W r of one layer during one solve. It may keep what it gathered of W from call to call.

    One whose `moved` is less precise than `dense` has an attribute `rounds`, True. One that is
    dense where that is faster may have `pays(like)`, whether it ever looks for changes in inputs of
    a shape, and a `patience` (see `kernels.patience`).
    """

    def dense(self, reference: Tensor) -> Tensor:
        """Return W r, without bias, of r (B, ..., n) or (B, n, H, W)."""
        ...

    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Return W r, and the multiply-adds that this took.

        Either product + W (r - before), over the entries that have changed, or W r anew: whichever
        is faster. Both are the same to rounding, so no sample sees its batch mates. No argument
        may be written to, nor the result share memory with one, but for `product` where no
        entry has changed.

        Arguments:
            product: W before, as an earlier call returned it.
            before: what r was in that call, of r's shape.
            reference: r.
            active: which entries may have changed, bool, of a shape that broadcasts to r's; None
                where that is to be looked for. It spares the look.
        """
        ...

    def multiply_adds(self, x: Tensor) -> int:
        """Return how many `dense` takes for x, all samples together."""
        ...


class Products(Protocol):
    """Which kernels a solve uses: makes the `Product` of each layer, once per solve."""

    def linear(self, weight: Tensor) -> Product:
        """Return the product with a matrix (m, n)."""
        ...

    def convolution(self, convolution: Convolution) -> Product:
        """Return the product with the kernels of a convolution."""
        ...


@dataclass(frozen=True)
class DenseMatrix:
    """The product with a matrix (m, n), computed densely whatever has changed."""

    weight: Tensor

    def dense(self, reference: Tensor) -> Tensor:
        return F.linear(reference, self.weight)

    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        return self.dense(reference), self.multiply_adds(reference)

    def multiply_adds(self, x: Tensor) -> int:
        return x[..., 0].numel() * self.weight.numel()


@dataclass(frozen=True)
class DenseKernel:
    """The product with the kernels of a convolution, computed densely whatever has changed."""

    convolution: Convolution

    def dense(self, reference: Tensor) -> Tensor:
        return self.convolution(reference)

    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        return self.dense(reference), self.multiply_adds(reference)

    def multiply_adds(self, x: Tensor) -> int:
        return self.convolution.multiply_adds(x)


@dataclass(frozen=True)
class Simulated:
    """Compute every product densely: differentiable, to train with a threshold, and the oracle."""

    def linear(self, weight: Tensor) -> Product:
        return DenseMatrix(weight)

    def convolution(self, convolution: Convolution) -> Product:
        return DenseKernel(convolution)


@dataclass(frozen=True)
class _EntryMatrix(DenseMatrix):
    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        return self.dense(reference), int((reference != before).sum()) * len(self.weight)


@dataclass(frozen=True)
class _EntryKernel(DenseKernel):
    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        changed = (reference != before).sum((0, 1))
        return self.dense(reference), int((changed * self.convolution.reads(before)).sum())


@dataclass(frozen=True)
class Entrywise:
    """Count what a kernel would take that skips every entry that has not changed.

    The products are computed densely: this is for a count that depends on no kernel, as papers
    state it, and no faster than dense.
    """

    def linear(self, weight: Tensor) -> Product:
        return _EntryMatrix(weight)

    def convolution(self, convolution: Convolution) -> Product:
        return _EntryKernel(convolution)


@dataclass(frozen=True)
class _GatheredMatrix(DenseMatrix):
    share: float

    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        change = reference - before
        rows = change.reshape(-1, change.shape[-1])
        index = rows.any(0).nonzero().squeeze(1)
        if len(index) == 0:
            return product, 0
        if len(index) > self.share * rows.shape[1]:
            return super().moved(product, before, reference)
        some, columns = rows.index_select(1, index), self.weight.index_select(1, index)
        moved = product.reshape(-1, product.shape[-1]).addmm(some, columns.mT)
        return moved.view_as(product), len(rows) * columns.numel()


@dataclass(frozen=True)
class _GatheredKernel(DenseKernel):
    share: float

    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        change = reference - before
        channels = change.shape[1]
        index = change.flatten(2).any(2).any(0).nonzero().squeeze(1)
        if len(index) == 0:
            return product, 0
        if self.convolution.groups > 1 or len(index) > self.share * channels:
            return super().moved(product, before, reference)
        weight = self.convolution.weight.index_select(1, index)
        some = Convolution(**{**vars(self.convolution), "weight": weight})
        image = change.index_select(1, index)
        return product + some(image), some.multiply_adds(image)


@dataclass(frozen=True)
class Gathered:
    """Gather the columns that have changed in any sample; dense where they are more than a share.

    Arguments:
        share: of the columns, up to which gathering them pays.
    """

    share: float = 0.35

    def linear(self, weight: Tensor) -> Product:
        return _GatheredMatrix(weight, self.share)

    def convolution(self, convolution: Convolution) -> Product:
        return _GatheredKernel(convolution, self.share)
