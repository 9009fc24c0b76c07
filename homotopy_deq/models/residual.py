"""An explicit residual network of as many parameters as an implicit model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from ..cells import dropout_mask, group_norm
from ..cells.cell import check_dropout
from ..layers import OnFailure
from .blocks import conv_blocks, linear_blocks
from .image import ImageModel, Statistic, configured
from .stack import Stack

DEPTH = 4
LEAST = {9: 1, 1: 4}
"""Inner channels of a block, by a kernel's entries: the norm of a vector of few says only signs."""


class ResidualBlock(nn.Module):
    """Add to a state what two maps make of it:

        z + N2(mask * A2(ReLU(N1(A1(z))))),   A1 and A2 3x3 convolutions, or matrices for vectors.

    With as many inner channels as outer ones it has the parameters of a `ConvCell`.

    Arguments:
        channels: of z, (B, C, H, W), or size of z, (B, n).
        inner: channels between the two maps.
        images: whether z is an image.
        groups: at most so many groups in each GroupNorm; vectors have a LayerNorm.
        dropout: probability of dropping a channel of a sample, while training.
    """

    def __init__(
        self, channels: int, inner: int, *, images: bool, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.dropout = check_dropout(dropout)
        self.map1, self.map2 = _map(channels, inner, images), _map(inner, channels, images)
        self.norm1, self.norm2 = (
            # A group of a vector may be one number, which a norm takes to zero.
            group_norm(width, groups) if images else nn.LayerNorm(width)
            for width in (inner, channels)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return the next state, of z's shape."""
        h: Tensor = self.map2(F.relu(self.norm1(self.map1(z))))
        if self.training and self.dropout > 0:
            h = h * dropout_mask(h, h.shape[1], self.dropout)
        return z + cast("Tensor", self.norm2(h))


def _map(inputs: int, outputs: int, images: bool) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1) if images else nn.Linear(inputs, outputs)


class ResidualNetwork(ImageModel):
    """Classify by `depth` residual blocks, each with weights of its own: nothing is solved for.

    Stem and head are those of a `HomoODE` or `DEQ` of the same sizes, and the blocks share out the
    parameters of one cell: their inner channels, evenly, are as many as stay within. So the whole
    has the parameters of an implicit model, to less than one inner channel, and the depth of
    `depth` evaluations. Arguments that are not named here are as in `HomoODE`.

    Arguments:
        hidden: channels of the state.
        depth: number of blocks; by default 4, or fewer where a cell has not the parameters for 4.
        kernel: 3, or 0 or None for a state that is a vector of `hidden` numbers, as in
            `MonotoneDEQ`; the cell is then two matrices and their norms, the head affine.
        parameters: of the whole model at most, for one beside an `MDEQ`, say. By default those of a
            `HomoODE` without its start.

    Raises:
        ValueError: so few parameters leave a block no inner channel (4 of a vector).

    References:
        K. He, X. Zhang, S. Ren, J. Sun (2016), Deep residual learning for image recognition.
    """

    @configured
    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        hidden: int = 64,
        head: int = 256,
        pool: int = 1,
        groups: int = 32,
        dropout: float = 0.1,
        stride: int = 2,
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
        depth: int | None = None,
        kernel: int | None = 3,
        parameters: int | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        if (depth is not None and depth < 1) or kernel not in (0, 3, None):
            raise ValueError(
                f"depth must be at least 1, and kernel 3, or 0 for vectors; got {depth} and "
                f"{kernel}."
            )
        stem: nn.Module
        out: nn.Module
        state: tuple[int, ...]
        if kernel:
            sizes = (shape, num_classes, hidden, head, pool, groups)
            stem, out, state = conv_blocks(*sizes, stride=stride)
        else:
            stem, out, state = linear_blocks(shape, num_classes, hidden, pool, None)
        around = _count(stem) + _count(out)
        entries = 9 if kernel else 1
        budget = _block(hidden, hidden, entries) if parameters is None else parameters - around
        widths = _inner(hidden, depth, entries, budget, around)
        blocks = nn.Sequential(
            *(
                ResidualBlock(hidden, inner, images=bool(kernel), groups=groups, dropout=dropout)
                for inner in widths
            )
        )
        layer = Stack(blocks, state, on_failure=on_failure)
        super().__init__(shape, stem, layer, out, mean=mean, std=std)
        self.config = {"depth": len(widths)}


def _inner(channels: int, depth: int | None, entries: int, budget: int, around: int) -> list[int]:
    """Return the inner channels of each block, together as many as the budget pays for."""
    fixed = _block(channels, 0, entries)
    a_channel = _block(channels, 1, entries) - fixed
    if depth is None:
        depth = min(DEPTH, max(budget // (fixed + LEAST[entries] * a_channel), 1))
    total = (budget - depth * fixed) // a_channel
    if total < depth * LEAST[entries]:
        least = depth * (fixed + LEAST[entries] * a_channel)
        raise ValueError(
            f"{depth} blocks of {channels} channels have at least {least:,} parameters, beside "
            f"{around:,} of stem and head; {budget:,} are left for them. Give fewer blocks "
            "(depth), or more parameters."
        )
    return [total // depth + (k < total % depth) for k in range(depth)]


def _block(channels: int, inner: int, entries: int) -> int:
    """Return the parameters of a block: two maps with biases, and two norms."""
    return inner * (2 * entries * channels + 3) + 3 * channels


def _count(module: nn.Module) -> int:
    return sum(math.prod(p.shape) for p in module.parameters())
