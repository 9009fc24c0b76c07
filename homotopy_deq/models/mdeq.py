"""MDEQ: one equilibrium at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solvers import Anderson, Gradient, Solver

from ..cells import Joined, MultiscaleCell
from ..cells.joined import join, split
from ..cells.multiscale import pyramid, resolutions
from ..layers import HORIZON, ImplicitLayer, OnFailure
from .blocks import conv_blocks, image_state
from .equilibrium import GAIN
from .image import ImageModel, Statistic, configured
from .start import StartPoint, start_point

MOST = 3
"""Resolutions by default at most."""


class MDEQ(ImageModel):
    """Solve for the equilibrium of a `MultiscaleCell`: images at several resolutions, fused.

    The layer's state is one vector a sample; `model.resolutions(z)` are its images, finest first.
    The head reads all of them. Arguments that are not named here are as in `DEQ` and `HomoODE`.

    Arguments:
        hidden: channels at each resolution.
        scales: number of resolutions, each half as high and wide as the one before it; by default
            as many as keep 2 x 2 pixels, and 3 at most.
        start: as in `HomoODE`, of each resolution by itself; "input" maps the condition, averaged
            to that resolution.
        solver: `Anderson()` by default.
        gradient: `Implicit()` by default.

    References:
        S. Bai, V. Koltun, J. Z. Kolter (2020), Multiscale deep equilibrium models. Differs as
        `MultiscaleCell` does, in one width for all resolutions, and in the head.
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
        scales: int | None = None,
        horizon: float = HORIZON,
        solver: Solver[Any, Any] | None = None,
        gradient: Gradient[Any] | None = None,
        start: str = "shared",
        on_failure: OnFailure = "warn",
    ) -> None:
        sizes = _sizes(image_state(shape, hidden, stride)[1:], scales)
        more = (len(sizes) - 1) * hidden
        stem, out, _ = conv_blocks(shape, num_classes, hidden, head, pool, groups, more, stride)
        cell = MultiscaleCell(hidden, len(sizes), groups=groups, dropout=dropout, gain=GAIN)
        states = [(hidden, *size) for size in sizes]
        joined = Joined(cell, states)
        root = ImplicitLayer(joined, t1=horizon, on_failure=on_failure)
        layer = root.with_solver(solver or Anderson(), gradient)
        points = [start_point(start, state, groups) for state in states]
        point = PyramidPoint([p for p in points if p is not None], states) if any(points) else None
        whole = nn.Sequential(Stacked(states), *out)
        super().__init__(shape, stem, layer, whole, point, mean=mean, std=std)
        self.config = {"scales": len(sizes)}

    def resolutions(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return a state's images (B, hidden, H_i, W_i), the finest first, of z (B, n)."""
        cell = self.layer.cell
        assert isinstance(cell, Joined)
        return cell.parts(z)


class Stacked(nn.Module):
    """Return the images of a state as one of all their channels, at the finest resolution.

    Arguments:
        states: the shapes (C, H_i, W_i), the finest first.
    """

    def __init__(self, states: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.states = states

    def forward(self, z: Tensor) -> Tensor:
        """Return (B, S C, H_1, W_1) of z, (B, n)."""
        parts = split(z, self.states)
        finest = self.states[0][1:]
        return torch.cat([parts[0], *(F.interpolate(each, finest) for each in parts[1:])], 1)


class PyramidPoint(StartPoint):
    """Start each resolution by a start of its own, from the condition averaged to it.

    Arguments:
        points: a start for each resolution.
        states: the shapes (C, H_i, W_i) of the resolutions, the finest first.
    """

    def __init__(
        self, points: Sequence[StartPoint], states: Sequence[tuple[int, int, int]]
    ) -> None:
        super().__init__()
        self.points = nn.ModuleList(points)
        self.states = states

    def forward(self, x: Tensor) -> Tensor:
        """Return z0, (B, n), for a condition x, (B, C, H_1, W_1)."""
        return join([point(each) for point, each in zip(self.points, self._each(x), strict=True)])

    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the sum of the losses of the resolutions, for answers z, (B, n)."""
        every = zip(self.points, self._each(x), split(z, self.states), strict=True)
        losses = [cast("StartPoint", point).loss(each, part) for point, each, part in every]
        return torch.stack(losses).sum()

    def _each(self, x: Tensor) -> tuple[Tensor, ...]:
        return pyramid(x, len(self.states))


def _sizes(finest: Sequence[int], scales: int | None) -> list[tuple[int, int]]:
    """Return height and width of each resolution, given the finest's."""
    height, width = finest
    some = [size for size in resolutions((height, width), MOST) if min(size) >= 2]
    wanted = max(len(some), 1) if scales is None else scales
    most = max(height, width, 1).bit_length() + 1
    found = resolutions((height, width), wanted) if 1 <= wanted <= most else []
    if not found or len(set(found)) < len(found):
        raise ValueError(
            f"scales must be at least 1 and leave something to halve of {height} x {width} "
            f"pixels; got {scales}."
        )
    return found
