"""The product with a matrix, brought up to date by the columns that have changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ..cost import Costs
from .patience import LONGEST, Patience

WIDTH = 32
"""Neighbouring columns that are taken in place together."""


class Columns(Protocol):
    """How the product with some columns is computed."""

    def gather(self, transposed: Tensor, index: Tensor) -> Tensor:
        """Return of W^T, (n, m), what `add` needs of the columns `index` of W, int64 (k,)."""
        ...

    def add(
        self, product: Tensor, before: Tensor, after: Tensor, index: Tensor, gathered: Tensor
    ) -> Tensor:
        """Return product + W (after - before), (B, m); they differ in the entries `index` alone."""
        ...


@dataclass(frozen=True)
class Gathering:
    """Bring the columns together, and multiply with them."""

    def gather(self, transposed: Tensor, index: Tensor) -> Tensor:
        return transposed.index_select(0, index)

    def add(
        self, product: Tensor, before: Tensor, after: Tensor, index: Tensor, gathered: Tensor
    ) -> Tensor:
        change = after.index_select(1, index).sub_(before.index_select(1, index))
        return torch.addmm(product, change, gathered)


@dataclass(frozen=True)
class Panel:
    """Columns of W: which, int64 (k,), which not, bool (n,), and what was gathered of them."""

    index: Tensor
    outside: Tensor
    gathered: Tensor


class MatrixProduct:
    """W r of vectors, of which some columns of W bring a change of some entries up to date.

    A column counts as changed if its entry changed in any sample, so all samples take the same
    columns. Gathered columns are kept, and used again while nothing outside of them changes. What
    is differentiated through is dense.

    Arguments:
        weight: W, (m, n).
        transposed: returns W^T in contiguous memory, (n, m).
        costs: the costs of a step for a batch; None for a size of which nothing is known.
        columns: how the product with some of them is computed.
    """

    def __init__(
        self,
        weight: Tensor,
        transposed: Callable[[], Tensor],
        costs: Callable[[int], Costs | None],
        columns: Columns = Gathering(),  # noqa: B008  (frozen)
    ) -> None:
        self.weight = weight
        self.columns = columns
        self.transposed = transposed
        self.costs = costs
        self._turned: Tensor | None = None
        self._panel: Panel | None = None
        self._known: tuple[int, Costs | None] = (-1, None)
        self.patience = Patience()

    def dense(self, reference: Tensor) -> Tensor:
        """Return W r of r (B, ..., n)."""
        return F.linear(reference, self.weight)

    def multiply_adds(self, x: Tensor) -> int:
        """Return how many `dense` takes, all samples together."""
        return x[..., 0].numel() * self.weight.numel()

    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Return W r and the multiply-adds that it took; see `products.Product`."""
        size = before.shape[-1]
        old, new = before.reshape(-1, size), reference.reshape(-1, size)
        costs = self._of(len(new))
        if costs is None:
            self.patience.left = LONGEST
        if costs is None or torch.is_grad_enabled() or self.patience.waits():
            return self.dense(reference), self.multiply_adds(reference)
        columns = changed(new - old) if active is None or active.dim() != 1 else active
        count = int(columns.sum())
        if count == 0:
            return product, 0
        y = product.reshape(len(new), -1)
        panel, seconds = self._cheapest(columns, count, costs)
        if costs.run(count) < seconds:  # if all were neighbours
            runs = _runs(columns)
            span = sum(stop - start for start, stop in runs)
            in_place = len(runs) * costs.run.call + span * costs.run.unit
            if in_place < seconds and self.patience.pays(costs, in_place):
                return self._in_place(y, old, new, runs).view_as(product), self._work(new, span)
        if not self.patience.pays(costs, seconds):
            return self.dense(reference), self.multiply_adds(reference)
        if panel is None:
            index = columns.nonzero().squeeze(1)
            if self._turned is None:
                self._turned = self.transposed()
            panel = Panel(index, ~columns, self.columns.gather(self._turned, index))
            self._panel = panel
        moved = self.columns.add(y, old, new, panel.index, panel.gathered)
        return moved.view_as(product), self._work(new, len(panel.index))

    def pays(self, like: Tensor) -> bool:
        """Say whether it may pay to look for changes in inputs of a shape."""
        costs = self._of(math.prod(like.shape[:-1]))
        return costs is not None and costs.worth

    def forget(self) -> None:
        """Let go of the gathered columns: the next step gathers anew."""
        self._panel = None

    def _of(self, batch: int) -> Costs | None:
        """Return the costs for a batch, None where it never pays to look."""
        if self._known[0] != batch:
            costs = self.costs(batch) if batch else None
            self._known = batch, costs if costs is not None and costs.looks else None
        return self._known[1]

    def _work(self, rows: Tensor, columns: int) -> int:
        return len(rows) * columns * len(self.weight)

    def _cheapest(self, active: Tensor, count: int, costs: Costs) -> tuple[Panel | None, float]:
        """Return the panel that there is, if using it again is cheapest, and the seconds."""
        panel, fresh = self._panel, costs.fresh(count)
        if panel is not None and len(panel.index) >= count:
            kept = costs.kept(len(panel.index))
            if kept <= fresh and not bool((active & panel.outside).any()):
                return panel, kept
        return None, fresh

    def _in_place(self, y: Tensor, old: Tensor, new: Tensor, runs: list[tuple[int, int]]) -> Tensor:
        """Return the product after a change in some runs of columns, which are views of W."""
        for k, (start, stop) in enumerate(runs):
            columns, some = self.weight[:, start:stop].mT, new[:, start:stop] - old[:, start:stop]
            y = torch.addmm(y, some, columns) if k == 0 else y.addmm_(some, columns)
        return y


def changed(rows: Tensor) -> Tensor:
    """Return in which columns of a change (B, n) any sample has one, bool (n,); NaN is a change."""
    return rows.abs().amax(0) != 0


def _runs(active: Tensor) -> list[tuple[int, int]]:
    """Return the runs of blocks of WIDTH columns that hold a change."""
    size = len(active)
    used = F.pad(active, (0, -size % WIDTH)).view(-1, WIDTH).any(1)
    edges = F.pad(used, (1, 1)).int().diff().nonzero().flatten().tolist()  # begins and ends
    at = [min(edge * WIDTH, size) for edge in edges]
    return list(zip(at[::2], at[1::2], strict=True))
