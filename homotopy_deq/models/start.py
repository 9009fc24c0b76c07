"""Where a solve starts: one learned point for all samples, a map of the condition, or zero.

At an equilibrium dL/dz0 = 0, so the task says nothing about a start. It learns from a loss of its
own, by an optimiser of its own, to lie near the answers: the path to them is then short. A model
detaches it from the task loss, and the condition from the start's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cells import group_norm


class StartPoint(nn.Module, ABC):
    """Give the start z0 of a solve for a condition x, both of one shape, (B, ...).

    Attributes:
        shared: whether the pixels of a state share their parameters.
    """

    shared: ClassVar[bool] = True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return z0 of the shape of x, (B, ...)."""

    def loss(self, x: Tensor, z: Tensor) -> Tensor:
        """Return smooth_l1(z0, stop_grad(z)) for answers z, (B, ...): the mean over the samples.

        It is summed over what has parameters of its own, as the mean would shrink the gradient of
        each by their number: so a step of SGD at rate r goes about r of the way to the mean of the
        answers, whatever the size.
        """
        apart = F.smooth_l1_loss(self(x.detach()).float(), z.detach().float(), reduction="sum")
        pixels = math.prod(z.shape[2:]) if self.shared else 1
        return apart / max(len(z) * pixels, 1)


class InitialPoint(StartPoint):
    """Return the start that all samples share: z0 = GroupNorm(conv1x1(1)), 3 C parameters.

    Arguments:
        channels: number C of channels of the state.
        groups: at most so many groups in the GroupNorm.

    References:
        S. Ding, T. Cui, J. Wang, Y. Shi (2023), Two sides of the same coin: bridging deep
        equilibrium models and neural ODEs via homotopy continuation.
    """

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 1, bias=False)
        self.norm = group_norm(channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Return z0 of the shape of x, (B, C, H, W): constant over batch and space."""
        weight = self.conv.weight
        with torch.autocast(weight.device.type, enabled=False):
            z0: Tensor = self.norm(self.conv(weight.new_ones(1, 1, *x.shape[2:])))
        return z0.expand(x.shape)


class StatePoint(StartPoint):
    """Return the start that all samples share: a state z0 that is learned entry by entry.

    Arguments:
        state: its shape, (n,) or (C, H, W).
    """

    shared: ClassVar[bool] = False

    def __init__(self, state: Sequence[int]) -> None:
        super().__init__()
        self.point = nn.Parameter(_first(state))

    def forward(self, x: Tensor) -> Tensor:
        """Return z0 of the shape of x, (B, *state)."""
        return self.point.expand(x.shape)


class InputPoint(StartPoint):
    """Return a start that depends on the input: one map of the condition x over its own size,

        z0 = A (x / rms(x)) / sqrt(k) + b,

    where A is a 3x3 convolution of images or a matrix for vectors, and k the number of its inputs:
    a learning rate then suits every width. A is zero at first.

    Arguments:
        state: the shape of condition and state, (n,) or (C, H, W).
    """

    def __init__(self, state: Sequence[int]) -> None:
        super().__init__()
        width = state[0]
        self.map: nn.Conv2d | nn.Linear = (
            nn.Linear(width, width) if len(state) == 1 else nn.Conv2d(width, width, 3, padding=1)
        )
        nn.init.zeros_(self.map.weight)
        with torch.no_grad():
            bias = _first((width,) if len(state) == 1 else (width, 1, 1))
            self.map.bias.copy_(bias.flatten())  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Return z0 of the shape of x."""
        weight = self.map.weight
        x = x.to(weight.dtype)
        size = x.flatten(1).square().mean(1).sqrt().clamp_min(1e-6)
        size = size.view(-1, *[1] * (x.dim() - 1)) * weight[0].numel() ** 0.5
        with torch.autocast(x.device.type, enabled=False):
            z0: Tensor = self.map(x / size)
        return z0


def _first(state: Sequence[int]) -> Tensor:
    """Return where a start begins to learn: normal for images, as zero is where the cells' norms
    make a field steepest (44 evaluations of the published flow for 14), and zero for vectors."""
    return torch.randn(*state) if len(state) == 3 else torch.zeros(*state)


STARTS = ("none", "shared", "spatial", "input")


def start_point(name: str, state: Sequence[int], groups: int = 32) -> StartPoint | None:
    """Return a start by its name, for states and conditions of a shape.

    Arguments:
        name: none (the cell's own, or zero), shared (one point, constant over space), spatial (one
            point of the full shape) or input (a map of the condition).
        state: (n,) or (C, H, W).
        groups: at most so many groups in a GroupNorm.

    Raises:
        ValueError: there is no such start.
    """
    if name not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)}; got {name!r}.")
    if name == "none":
        return None
    if name == "input":
        return InputPoint(state)
    return (
        InitialPoint(state[0], groups)
        if name == "shared" and len(state) == 3
        else StatePoint(state)
    )
