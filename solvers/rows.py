"""Some rows of a map that closes over its inputs, so that selecting rows always works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .structure import Wrapped, offered


def select(condition: tuple[Tensor, ...], index: Tensor) -> tuple[Tensor, ...]:
    """Return the rows `index` of each tensor."""
    return tuple(tensor.index_select(0, index) for tensor in condition)


class Embedded(Wrapped):
    """A map of the full batch, f(*z), as a map f(*z, index) of the samples `index` (int64) alone.

    It closes over the inputs of all samples, so it is evaluated on all: the rows of the others
    hold a repetition of one that is asked for, and their results are dropped. Arguments without a
    dimension, such as a time, belong to all rows.

    Arguments:
        function: f.
        everything: the numbers of all rows, (B,).
    """

    def __init__(self, function: Callable[..., Any], everything: Tensor) -> None:
        self.function = function
        self.everything = everything

    def __call__(self, *args: Tensor) -> Tensor:
        *given, index = args
        if index is self.everything or torch.equal(index, self.everything):
            whole: Tensor = self.function(*given)
            return whole
        left = torch.arange(len(index), device=index.device)
        parts, places = [], []
        while len(left):  # once, unless a sample is asked for twice, as for a Jacobian's columns
            fill = torch.full_like(self.everything, int(left[0]))
            fill[index[left]] = left
            full = (x if x.dim() == 0 else x.index_select(0, fill) for x in given)
            out: Tensor = self.function(*full)
            taken = fill[index[left]] == left
            places.append(left[taken])
            parts.append(out.index_select(0, index[left[taken]]))
            left = left[~taken]
        if len(parts) == 1:
            return parts[0]
        order = torch.argsort(torch.cat(places))
        return torch.cat(parts).index_select(0, order)

    @property
    def multiply_adds(self) -> Callable[..., int] | None:
        """What the map says of all samples, as often as one of them is asked for."""
        says, rows = offered(self.function, "multiply_adds"), len(self.everything)
        if says is None:
            return None

        def of_all(*args: Tensor) -> int:
            *given, index = args
            full = (x if x.dim() == 0 else x[:1].expand(rows, *x.shape[1:]) for x in given)
            return int(torch.bincount(index).max()) * int(says(*full))

        return of_all


def scatter(values: Tensor, index: Tensor, base: Tensor) -> Tensor:
    """Return base with its rows `index` replaced by values."""
    return base.index_copy(0, index, values)
