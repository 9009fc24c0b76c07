"""What stands before and behind the implicit layer of an image model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import index
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..cells import group_norm


class Normalize(nn.Module):
    """Take images in [0, 1] to (image - mean) / std, channel by channel.

    Inside the model, so that a user, an attack or a certificate sees images in their own units.

    Arguments:
        channels: number C of channels of the images, (B, C, H, W).
        mean: one number for all channels, or C of them.
        std: likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, channels: int, mean: float | Sequence[float], std: float | Sequence[float]
    ) -> None:
        super().__init__()
        self.register_buffer("mean", _per_channel("mean", mean, channels))
        self.register_buffer("std", _per_channel("std", std, channels))
        if not bool((torch.as_tensor(std, device="cpu") > 0).all()):  # known on "meta" too
            raise ValueError(f"std must be above 0; got {std}.")

    def forward(self, images: Tensor) -> Tensor:
        """Return the normalised images, (B, C, H, W)."""
        return (images - self.mean) / self.std


def _per_channel(name: str, values: float | Sequence[float], channels: int) -> Tensor:
    each = torch.as_tensor(values, dtype=torch.get_default_dtype())
    if each.numel() not in (1, channels) or each.dim() > 1:
        raise ValueError(f"{name} must be a number or {channels} of them; got {values}.")
    return each.expand(channels).reshape(channels, 1, 1).clone()


def check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of images, or raise ValueError if it is none."""
    try:
        sizes = tuple(index(size) for size in shape)
    except TypeError:  # no sequence, or none of whole numbers
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"shape must be (channels, height, width); got {sizes or shape!r}.")
    return sizes


def _check_sizes(shape: Sequence[int], num_classes: int, pool: int) -> None:
    check_shape(shape)
    if num_classes < 1 or pool < 1:
        raise ValueError(f"num_classes and pool must be at least 1; got {num_classes} and {pool}.")


STRIDES = {1: (1, 1), 2: (1, 2), 4: (2, 2)}
"""Of the stem's two convolutions, by the stride of the whole."""


def stem(channels: int, hidden: int, stride: int = 2) -> nn.Sequential:
    """Map images (B, channels, H, W) to the condition, (B, hidden, ceil(H/stride), ...)."""
    first, second = STRIDES[stride]
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 3, stride=first, padding=1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
        nn.Conv2d(hidden, hidden, 3, stride=second, padding=1),
        nn.BatchNorm2d(hidden),
        nn.ReLU(),
    )


def conv_blocks(
    shape: Sequence[int],
    num_classes: int,
    hidden: int,
    head: int,
    pool: int,
    groups: int,
    augment: int = 0,
    stride: int = 2,
) -> tuple[nn.Module, nn.Sequential, tuple[int, int, int]]:
    """Return `stem`, and a head that maps answers (B, hidden + augment, H, W), averaged on a
    pool x pool grid, to logits (B, num_classes); and the shape of the condition, (hidden, H, W)."""
    _check_sizes(shape, num_classes, pool)
    state = image_state(shape, hidden, stride)
    first = stem(shape[0], hidden, stride)
    last = nn.Sequential(
        group_norm(hidden + augment, groups),
        nn.ReLU(),
        nn.Conv2d(hidden + augment, head, 1),
        nn.BatchNorm2d(head),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(pool),
        nn.Flatten(),
        nn.Linear(head * pool**2, num_classes),
    )
    return first, last, state


def image_state(shape: Sequence[int], hidden: int, stride: int) -> tuple[int, int, int]:
    """Return the shape of `stem`'s condition, or raise ValueError if there is none."""
    check_shape(shape)
    if stride not in STRIDES:
        raise ValueError(f"stride must be one of {', '.join(map(str, STRIDES))}; got {stride}.")
    return hidden, -(-shape[1] // stride), -(-shape[2] // stride)


def linear_blocks(
    shape: Sequence[int],
    num_classes: int,
    hidden: int,
    pool: int,
    kernel: int | None,
    stride: int = 2,
) -> tuple[nn.Module, LinearHead, tuple[int, ...]]:
    """Return the stem and the head of a model whose votes can be verified, and its state's shape.

    The stem ends with an affine map, as relu(W z + x) wants an x of both signs: of the pixels, if
    the state is a vector (no kernel), else of `stem`'s first convolution. The head is affine
    altogether.
    """
    _check_sizes(shape, num_classes, pool)
    if not kernel:
        flat = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), hidden))
        return flat, LinearHead(hidden, None, num_classes), (hidden,)
    state = image_state(shape, hidden, stride)
    first = stem(shape[0], hidden, stride)[:-1]
    return first, LinearHead(hidden, pool, num_classes), state


@runtime_checkable
class AffineHead(Protocol):
    """A head that is one affine map of the answer."""

    def affine(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return C and d of logits = C z.flatten() + d, in double precision."""
        ...


class LinearHead(nn.Module):
    """Map answers to logits by one affine map, of the averages on a pool x pool grid if images.

    Arguments:
        width: size n or channels C of the answers, (B, n) or (B, C, H, W).
        pool: None for answers (B, n).
        num_classes: number of logits.
    """

    def __init__(self, width: int, pool: int | None, num_classes: int) -> None:
        super().__init__()
        self.pool = pool
        self.linear = nn.Linear(width * (pool or 1) ** 2, num_classes)

    def forward(self, z: Tensor) -> Tensor:
        """Return the logits, (B, num_classes)."""
        logits: Tensor = self.linear(self.features(z))
        return logits

    def features(self, z: Tensor) -> Tensor:
        """Return what the affine map reads, (B, width * pool^2)."""
        return z if self.pool is None else F.adaptive_avg_pool2d(z, self.pool).flatten(1)

    @torch.no_grad()
    def affine(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return C and d of logits = C z.flatten() + d, in double precision.

        Arguments:
            shape: of a sample's answer, (n,) or (C, H, W).

        Returns:
            (num_classes, n) and (num_classes,).
        """
        weight, bias = self.linear.weight.double(), self.linear.bias.double()
        if self.pool is None:
            return weight, bias
        channels, height, width = shape
        pixels = torch.eye(height * width, dtype=weight.dtype, device=weight.device)
        means = F.adaptive_avg_pool2d(pixels.view(-1, 1, height, width), self.pool).flatten(1)
        split = weight.view(len(weight), channels, self.pool**2)
        return (split @ means.mT).flatten(1), bias


def readout(head: nn.Module) -> tuple[Callable[[Tensor], Tensor], nn.Linear]:
    """Return what a head does before its classifier, and the classifier, its last affine map.

    Arguments:
        head: states (B, ...) -> logits (B, classes).

    Raises:
        ValueError: the head is of neither kind that ends with one.
    """
    if isinstance(head, LinearHead):
        return head.features, head.linear
    if isinstance(head, nn.Sequential) and len(head):
        last = head[-1]
        if isinstance(last, nn.Linear):
            return head[:-1], last
    raise ValueError(
        "what the classifier reads is known of a LinearHead, or of an nn.Sequential that ends with "
        f"nn.Linear; the model's last part is {type(head).__name__}."
    )
