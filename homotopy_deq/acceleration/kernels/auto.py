"""The kernels of a solve, chosen step by step by what they cost on this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..calibration import measured
from ..cost import Costs, scaled
from ..products import Convolution, Product
from .matrix import Columns, Gathering, MatrixProduct
from .tiles import TiledProduct

TILES = {False: "planes", True: "tiles"}
"""What the costs of a convolution are kept under, by whether channels are last."""
Costing = Callable[[str, int, int, int], Costs | None]
"""The costs of a kind of step, a batch, so many units in all and so much work in each."""


def calibrated(kind: str, batch: int, units: int, work: int) -> Costs | None:
    """Return the costs that were measured on this machine; it measures where nothing is kept."""
    return scaled(measured(kind), batch, units, work)


@dataclass(frozen=True)
class Auto:
    """Bring products up to date in the way that costs least: sparse where that pays, else dense.

    On a CPU: columns of a matrix that the batch shares, gathered anew when others have changed, or
    in place where they are neighbours; tiles of 8 x 8 pixels of a convolution. Everything else is
    dense.

    Costs are measured once on each machine, which takes a second or two, and kept in a file; see
    `homotopy_deq.acceleration.calibration`.

    Arguments:
        costs: where the costs come from.
        triton: on a GPU, in single precision, read the columns where they are, by Triton. On an
            H100 that is faster than gathering them at a tenth of the columns and batches of 64
            in a CUDA graph, and slower at more columns, at larger batches, or call by call.
    """

    costs: Costing = calibrated
    triton: bool = False
    _transposed: Any = field(
        default_factory=WeakIdKeyDictionary, init=False, repr=False, compare=False
    )

    def __reduce__(self) -> tuple[type[Auto], tuple[Costing, bool]]:
        return Auto, (self.costs, self.triton)  # a copy keeps nothing yet

    def linear(self, weight: Tensor) -> Product:
        """Return the product with a matrix (m, n)."""
        columns = _columns(weight) if self.triton else Gathering()
        kind = _kind("matrix" if isinstance(columns, Gathering) else "triton", weight)
        outputs, inputs = weight.shape
        return MatrixProduct(
            weight,
            lambda: self._turned(weight),
            lambda batch: self.costs(kind, batch, inputs, outputs),
            columns,
        )

    def convolution(self, convolution: Convolution) -> Product:
        """Return the product with the kernels of a convolution."""
        names = {last: _kind(TILES[last], convolution.weight) for last in TILES}
        return TiledProduct(
            convolution, lambda last, units, work: self.costs(names[last], 1, units, work)
        )

    def _turned(self, weight: Tensor) -> Tensor:
        """Return W^T in contiguous memory, kept from solve to solve while W is as it was.

        That is asked of W itself, by its product with the same vector: neither its address nor
        its version tells of a fused optimizer, or of what was written through `.data`.
        """
        matrix = weight.detach()
        probe = torch.linspace(1, 2, matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
        mark = torch.mv(matrix, probe)
        known: tuple[Tensor, Tensor] | None = self._transposed.get(weight)
        alike = known is not None and (known[0].dtype, known[0].device) == (mark.dtype, mark.device)
        if known is None or not alike or not torch.equal(known[0], mark):
            known = mark, matrix.mT.contiguous()
            self._transposed[weight] = known
        return known[1]


def _kind(name: str, weight: Tensor) -> str:
    return f"{name} {weight.device.type} {str(weight.dtype).removeprefix('torch.')}"


def _columns(weight: Tensor) -> Columns:
    if weight.is_cuda and weight.dtype == torch.float32 and find_spec("triton") is not None:
        from .triton_columns import TritonColumns

        return TritonColumns()
    return Gathering()
