"""The convolutional cell of HomoODE, which is also the cell of a DEQ."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from .cell import check_dropout, dropout_mask
from .norm import group_norm


class ConvCell(nn.Module):
    """Map a state and a condition, both images of C channels, to the next state:

        f(z; x) = GN2(mask * conv2(ReLU(GN1(conv1(z))) + x)).

    GN1 takes out the scale of z, so what decides whether f contracts is the size of GN1's output
    beside x: its weight starts at `gain`. HomoODE as published has gain 1.

    Arguments:
        channels: number C of channels of z and x, (B, C, H, W).
        groups: at most so many groups in each GroupNorm.
        dropout: probability of dropping a channel of a sample during a solve, while training.
        gain: initial weight of GN1.

    References:
        S. Ding, T. Cui, J. Wang, Y. Shi (2023), Two sides of the same coin: bridging deep
        equilibrium models and neural ODEs via homotopy continuation.
    """

    rowwise: ClassVar[bool] = True

    def __init__(
        self, channels: int, *, groups: int = 32, dropout: float = 0.0, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.channels = channels
        self.dropout = check_dropout(dropout)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = group_norm(channels, groups)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = group_norm(channels, groups)
        nn.init.constant_(self.norm1.weight, gain)

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return x and, while training, the mask of this solve."""
        if self.training and self.dropout > 0:
            return x, dropout_mask(x, self.channels, self.dropout)
        return (x,)

    def forward(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Evaluate f(z; x), (B, C, H, W)."""
        h: Tensor = self.conv2(F.relu(self.norm1(self.conv1(z))) + x)
        out: Tensor = self.norm2(h if mask is None else h * mask)
        return out
