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
        self.asked, self.calls = everything, list[tuple[Tensor, Tensor, Tensor]]()

    def __call__(self, *args: Tensor) -> Tensor:
        *given, index = args
        if index is not self.asked:  # the same from one drop of finished samples to the next
            self.asked, self.calls = index, self._calls(index)
        if not self.calls:
            whole: Tensor = self.function(*given)
            return whole
        parts: list[Tensor] = []
        for fill, _, rows in self.calls:
            full = (x if x.dim() == 0 else x.index_select(0, fill) for x in given)
            parts.append(self.function(*full).index_select(0, rows))
        if len(parts) == 1:
            return parts[0]
        order = torch.argsort(torch.cat([places for _, places, _ in self.calls]))
        return torch.cat(parts).index_select(0, order)

    def _calls(self, index: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Return for each call what fills the full batch, the places it answers and their rows.

        None where that is the full batch as it is.
        """
        calls: list[tuple[Tensor, Tensor, Tensor]] = []
        if torch.equal(index, self.everything):
            return calls
        left = torch.arange(len(index), device=index.device)
        while True:  # once, unless a sample is asked for twice, as for a Jacobian's columns
            fill, rows = left[:1].repeat(len(self.everything)), index[left]
            fill[rows] = left
            taken = fill[rows] == left
            if bool(taken.all()):
                return [*calls, (fill, left, rows)]
            calls.append((fill, left[taken], rows[taken]))
            left = left[~taken]

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
