"""Cells of every kind and shape, and their weights as matrices."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from homotopy_deq.cells import (
    ContractiveCell,
    FixedCell,
    InclusionCell,
    MonotoneCell,
)
from solvers import (
    Anderson,
    Implicit,
    PeacemanRachford,
)
from tests.problems import DOUBLE

SHAPES = [(7,), (1,), (3, 4, 5), (2, 6, 4), (2, 2, 2)]
KINDS = [ContractiveCell, MonotoneCell]
TIGHT = [Anderson(rtol=1e-12), PeacemanRachford(rtol=1e-12, max_steps=1000)]
EXACT = Implicit(Anderson(rtol=1e-12))

every_cell = pytest.mark.parametrize("kind", KINDS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def made(kind: Any, shape: tuple[int, ...], seed: int = 0, **settings: Any) -> InclusionCell:
    torch.manual_seed(seed)
    cell: InclusionCell = kind(shape, **settings)
    return cell


def matrix(cell: InclusionCell, weight: Tensor | None = None) -> Tensor:
    """W as a matrix of all entries, from the forward pass: column k is W e_k."""
    w = cell.weight().detach() if weight is None else weight
    n = math.prod(cell.shape)
    fixed = FixedCell(cell)
    fixed.matrix = w.double()
    units = torch.eye(n, dtype=DOUBLE).view(n, *cell.shape)
    return fixed.equation((units,)).linear(units).reshape(n, n).mT


def norm(w: Tensor) -> float:
    return float(torch.linalg.matrix_norm(w, 2))


def least(w: Tensor) -> float:
    return float(torch.linalg.eigvalsh(torch.eye(len(w), dtype=w.dtype) - (w + w.mT) / 2)[0])
