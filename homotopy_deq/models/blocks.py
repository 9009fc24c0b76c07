"""What stands before and behind the implicit layer of an image model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..cells import group_norm


class Normalize(nn.Module):
    """Take images in [0, 1] to (image - mean) / std, channel by channel.

    Inside the model, so that a user, an attack or a certificate sees images in their own units.

    Arguments:
        channels: number C of channels of the images, (B, C, H, W).
        mean, std: one number for all channels, or C of them.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, mean: float | Sequence[float], std: float | Sequence[float]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel("mean", mean, channels))
        self.register_buffer("std", _per_channel("std", std, channels))
        if not bool((self.std > 0).all()):
            raise ValueError(f"std must be above 0; got {std}.")

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised images, (B, C, H, W)."""
        return (images - self.mean) / self.std


def _per_channel(name: str, values: float | Sequence[float], channels: int) -> Tensor:
    each = torch.as_tensor(values, dtype=torch.get_default_dtype())
    if each.numel() not in (1, channels) or each.dim() > 1:
        raise ValueError(f"{name} must be a number or {channels} of them; got {values}.")
    return each.expand(channels).reshape(channels, 1, 1).clone()


def stem(channels: int, hidden: int) -> nn.Sequential:
    """Map images (B, channels, H, W) to the condition, (B, hidden, ceil(H/2), ceil(W/2))."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, padding=1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, stride=2, padding=1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
    )


def classifier(width: int, head: int, num_classes: int, groups: int, pool: int) -> nn.Sequential:
    """Map answers (B, width, H, W), averaged on a pool x pool grid, to logits (B, num_classes)."""
    return nn.Sequential(
        group_norm(width, groups),
        nn.ReLU(),
        nn.Conv2d(width, head, 1),
        nn.BatchNorm2d(head),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(pool),
        nn.Flatten(),
        nn.Linear(head * pool**2, num_classes),
    )
