"""A cell whose state is one image at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from .conv import ConvCell
from .norm import group_norm


class MultiscaleCell(nn.Module):
    """Map images z_1, ..., z_S of one width, each half as high and wide as the one before it:

        y_i = ConvCell_i(z_i; x_i),    f_i(z; x) = GN_i(sum_j R_ij(y_j)),

    where x_i is x averaged to the resolution of z_i, and R_ij fuses the resolutions: the identity
    for i = j, i - j strided 3x3 convolutions down to a coarser one, or a 1x1 convolution and the
    nearest neighbour up to a finer one.

    The state is a tuple, which every solver takes: `Equilibrium(cell, (x,))` from
    `cell.initial(x)`. A layer iterates it as `Joined(cell, shapes)`.

    Arguments:
        channels: number C of channels of x and of each z_i.
        scales: number S of resolutions.
        groups: at most so many groups in each GroupNorm.
        dropout: probability of dropping a channel of a sample during a solve, while training.
        gain: initial weight of the first norm of each `ConvCell`.

    References:
        S. Bai, V. Koltun, J. Z. Kolter (2020), Multiscale deep equilibrium models. Differs in the
        branches, which are those of `ConvCell`: x enters each of them, not the finest alone, and
        there is no shortcut. Without x beside it nothing holds a branch's own state down, as its
        norms take out its scale, and f does not contract.
    """

    rowwise: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        scales: int,
        *,
        groups: int = 32,
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        if scales < 1:
            raise ValueError(f"scales must be at least 1; got {scales}.")
        self.branches = nn.ModuleList(
            ConvCell(channels, groups=groups, dropout=dropout, gain=gain) for _ in range(scales)
        )
        self.fusions = nn.ModuleList(Fusion(channels, i, scales, groups) for i in range(scales))

    def shapes(self, x: Tensor) -> list[tuple[int, int]]:
        """Return height and width of each z_i for a condition x, (B, C, H, W)."""
        return resolutions((x.shape[-2], x.shape[-1]), len(self.branches))

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return x at each resolution and, while training, the masks of this solve."""
        drawn = [branch.condition(x) for branch in self.branches]  # type: ignore[operator]
        return *pyramid(x, len(drawn)), *(mask for _, *masks in drawn for mask in masks)

    def initial(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return zero at each resolution, (B, C, H_i, W_i)."""
        return tuple(x.new_zeros(*x.shape[:2], *size) for size in self.shapes(x))

    def forward(self, z: tuple[Tensor, ...], x: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """Evaluate f(z; x), a tuple of images (B, C, H_i, W_i)."""
        scales = len(self.branches)
        given = (x, *more) if more else pyramid(x, scales)
        masks = given[scales:] or (None,) * scales
        every = zip(self.branches, z, given[:scales], masks, strict=True)
        y = [branch(part, own, mask) for branch, part, own, mask in every]
        return tuple(fusion(y) for fusion in self.fusions)


class Fusion(nn.Module):
    """Return one resolution of a cell's result: GN(sum_j R_j(y_j)), see `MultiscaleCell`.

    Arguments:
        channels: of each y_j.
        own: which resolution, from 0, the finest.
        scales: number of resolutions.
        groups: at most so many groups in each GroupNorm.
    """

    def __init__(self, channels: int, own: int, scales: int, groups: int) -> None:
        super().__init__()
        self.own = own
        self.ways = nn.ModuleList(_resampling(channels, own - j, groups) for j in range(scales))
        self.norm = group_norm(channels, groups)

    def forward(self, y: Sequence[Tensor]) -> Tensor:
        """Return (B, C, H_i, W_i) of images (B, C, H_j, W_j)."""
        total = y[self.own]
        for j, (way, part) in enumerate(zip(self.ways, y, strict=True)):
            if j < self.own:
                total = total + way(part)
            elif j > self.own:
                total = total + F.interpolate(way(part), total.shape[-2:])
        fused: Tensor = self.norm(total)
        return fused


def resolutions(size: tuple[int, int], scales: int) -> list[tuple[int, int]]:
    """Return heights and widths, each half of the one before it, rounded up."""
    found = [size]
    for _ in range(scales - 1):
        height, width = found[-1]
        found.append((-(-height // 2), -(-width // 2)))
    return found


def pyramid(x: Tensor, scales: int) -> tuple[Tensor, ...]:
    """Return an image (B, C, H, W) averaged to each resolution, the finest first."""
    found = [x]
    for _ in range(scales - 1):
        found.append(F.avg_pool2d(found[-1], 2, ceil_mode=True))
    return tuple(found)


def _resampling(channels: int, down: int, groups: int) -> nn.Module:
    """Return what takes an image `down` resolutions down; up below 0, but for its size."""
    if down == 0:
        return nn.Identity()
    if down < 0:
        return nn.Conv2d(channels, channels, 1)
    parts: list[nn.Module] = []
    for step in range(down):
        parts += [group_norm(channels, groups), nn.ReLU()] if step else []
        parts += [nn.Conv2d(channels, channels, 3, stride=2, padding=1)]
    return nn.Sequential(*parts)
