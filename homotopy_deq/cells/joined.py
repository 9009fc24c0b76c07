"""A cell of a tuple state as one of a vector state, which is what all tools take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .cell import hook


class Joined(nn.Module):
    """Iterate a cell of several tensors, `cell(z, *condition)` with a tuple z, on one vector:

        z = (z_1.flatten(), ..., z_k.flatten()),   (B, n).

    Starts, penalties, certificates and pictures then need not know of what parts a state is.

    Arguments:
        cell: takes a tuple of tensors (B, *shapes[i]) and the condition, and returns such a tuple.
        shapes: of a sample's parts.
    """

    def __init__(self, cell: nn.Module, shapes: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.cell = cell
        self.shapes = tuple(map(tuple, shapes))

    @property
    def rowwise(self) -> bool:
        """Whether the cell promises it."""
        return bool(getattr(self.cell, "rowwise", False))

    @property
    def size(self) -> int:
        """How many numbers a sample's state has."""
        return sum(map(math.prod, self.shapes))

    def parts(self, z: Tensor) -> tuple[Tensor, ...]:
        """Return the parts (B, *shapes[i]) of a state (B, n), as views of it."""
        return split(z, self.shapes)

    def condition(self, x: Any) -> tuple[Tensor, ...]:
        """Return the cell's own condition, (x,) where it has none."""
        make = hook(self.cell, "condition")
        return (x,) if make is None else make(x)

    def initial(self, x: Tensor) -> Tensor:
        """Return the cell's start, or zero, (B, n)."""
        make = hook(self.cell, "initial")
        return x.new_zeros(len(x), self.size) if make is None else join(make(x))

    def forward(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Evaluate the cell, (B, n)."""
        return join(self.cell(self.parts(z), *condition))


def split(z: Tensor, shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
    """Return the tensors (B, *shapes[i]) that vectors (B, n) are made of, as views of them."""
    each = torch.split(z, [math.prod(shape) for shape in shapes], 1)
    return tuple(part.reshape(-1, *shape) for part, shape in zip(each, shapes, strict=True))


def join(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors (B, ...) as one vector a sample, (B, n)."""
    return torch.cat([part.flatten(1) for part in parts], dim=1)
