"""The vector field of a neural ODE, plain or augmented."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cell import check_dropout, dropout_mask
from .norm import group_norm


class ConvField(nn.Module):
    """Map an image-shaped state to its velocity, where x is the initial point:

        dz/dt = GN2(mask * conv2(ReLU(GN1(conv1(z))))),   z(0) = (x, 0).

    An augmented field has `augment` more channels, which start at zero: paths that would have to
    cross in the space of x pass each other in the larger one.

    Arguments:
        channels: channels of x, (B, channels, H, W).
        augment: channels added to them; 0 for a plain neural ODE.
        groups: at most so many groups in each GroupNorm.
        dropout: probability of dropping a channel of a sample during a solve, while training.

    References:
        R. T. Q. Chen et al. (2018), Neural ordinary differential equations.
        E. Dupont, A. Doucet, Y. W. Teh (2019), Augmented neural ODEs.
    """

    rowwise: ClassVar[bool] = True

    def __init__(
        self, channels: int, *, augment: int = 0, groups: int = 32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if augment < 0:
            raise ValueError(f"augment must be at least 0; got {augment}.")
        self.augment = augment
        self.width = width = channels + augment
        self.dropout = check_dropout(dropout)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm1 = group_norm(width, groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = group_norm(width, groups)

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return x, which the field ignores, and, while training, the mask of this solve."""
        if self.training and self.dropout > 0:
            return x, dropout_mask(x, self.width, self.dropout)
        return (x,)

    def initial(self, x: Tensor) -> Tensor:
        """Return x with the added channels at zero, (B, channels + augment, H, W)."""
        if self.augment == 0:
            return x
        zeros = x.new_zeros(x.shape[0], self.augment, *x.shape[2:])
        return torch.cat([x, zeros], dim=1)

    def forward(self, z: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Evaluate the velocity at z, (B, channels + augment, H, W)."""
        h: Tensor = self.conv2(F.relu(self.norm1(self.conv1(z))))
        out: Tensor = self.norm2(h if mask is None else h * mask)
        return out
