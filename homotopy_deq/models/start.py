"""The shared learnable initial point of HomoODE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cells import group_norm


class InitialPoint(nn.Module):
    """Return the start that all samples share: z0 = GroupNorm(conv1x1(1)), 3 C parameters.

    At an equilibrium dL/dz0 = 0, so the task says nothing about a shared start. It learns from a
    loss of its own, by an optimiser of its own, to lie near the answers: the path to them is
    then short. A model detaches it from the task loss.

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

    def forward(self, shape: Sequence[int]) -> Tensor:
        """Return z0 of a state's shape (B, C, H, W): constant over batch and space."""
        weight = self.conv.weight
        with torch.autocast(weight.device.type, enabled=False):
            z0: Tensor = self.norm(self.conv(weight.new_ones(1, 1, *shape[2:])))
        return z0.expand(*shape)

    def loss(self, z: Tensor) -> Tensor:
        """Return smooth_l1(z0, stop_grad(z)) for answers z, (B, C, H, W)."""
        return F.smooth_l1_loss(self(z.shape), z.detach())


class VectorPoint(nn.Module):
    """Return the start that all samples share, where the state is a vector: z0 itself is learned.

    As `InitialPoint`, it learns from a loss of its own.

    Arguments:
        hidden: size n of the state.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.point = nn.Parameter(torch.zeros(hidden))

    def forward(self, shape: Sequence[int]) -> Tensor:
        """Return z0 of a state's shape (B, n)."""
        return self.point.expand(*shape)

    def loss(self, z: Tensor) -> Tensor:
        """Return smooth_l1(z0, stop_grad(z)) for answers z, (B, n).

        It is summed over the entries, which are parameters of their own here: their mean would
        shrink the gradient of each by n.
        """
        return F.smooth_l1_loss(self(z.shape), z.detach()) * z.shape[1]
