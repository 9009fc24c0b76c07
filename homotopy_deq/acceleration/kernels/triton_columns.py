"""The column step on CUDA: y + W d where d is 0 outside some columns, block by block, by Triton.

Import this module only where Triton is installed and the tensors are on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

BLOCK = 32
"""Active columns taken together: a tile that tensor cores take."""


@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    y,
    d,
    weight_t,
    index,
    out,
    batch,
    inputs,
    outputs,
    count,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WIDTH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute a tile (ROWS, COLUMNS) of out = y + d[:, index] W^T[index], WIDTH of index a time."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (rows < batch)[:, None] & (columns < outputs)[None, :]
    place = rows[:, None] * outputs + columns[None, :]
    total = tl.load(y + place, mask=inside, other=0.0)
    for begin in range(0, count, WIDTH):
        place_k = begin + tl.arange(0, WIDTH)
        used = place_k < count
        k = tl.load(index + place_k, mask=used, other=0)
        change = tl.load(
            d + rows[:, None] * inputs + k[None, :],
            mask=(rows < batch)[:, None] & used[None, :],
            other=0.0,
        )
        weight = tl.load(
            weight_t + k[:, None] * outputs + columns[None, :],
            mask=used[:, None] & (columns < outputs)[None, :],
            other=0.0,
        )
        total = tl.dot(change, weight, total, input_precision=PRECISION)
    tl.store(out + place, total, mask=inside)


def tile(batch: int) -> tuple[int, int]:
    """Return rows and columns of a program's tile: those that an H100 was fastest with.

    Of seven, at 2048 and 4096 columns, see experiments/results/delta_cuda.json.
    """
    return (16, 32) if batch <= 64 else (64, 64)


@triton_op("homotopy_deq::column_step", mutates_args={})
def column_step(
    y: Tensor, d: Tensor, weight_t: Tensor, index: Tensor, tf32: bool, rows: int, columns: int
) -> Tensor:
    """Return y + d W^T, (B, m), from the columns of W that d may not be 0 in, read in place.

    Arguments:
        y: (B, m), single precision.
        d: (B, n).
        weight_t: W^T, (n, m).
        index: which columns, int32 (k,).
        tf32: round the factors to TF32; without it three products in TF32 make up for it.
        rows: of the tile that a program computes, see `tile`.
        columns: of that tile.
    """
    y, d, weight_t = y.contiguous(), d.contiguous(), weight_t.contiguous()
    batch, outputs = y.shape
    out = torch.empty_like(y)
    grid = (triton.cdiv(batch, rows), triton.cdiv(outputs, columns))
    wrap_triton(_kernel)[grid](
        y,
        d,
        weight_t,
        index,
        out,
        batch,
        d.shape[1],
        outputs,
        index.numel(),
        ROWS=rows,
        COLUMNS=columns,
        WIDTH=BLOCK,
        PRECISION="tf32" if tf32 else "tf32x3",
    )
    return out


@dataclass(frozen=True)
class TritonColumns:
    """Read the columns where they are: `Columns` of a matrix product on a GPU."""

    def gather(self, transposed: Tensor, index: Tensor) -> Tensor:
        return transposed

    def add(
        self, product: Tensor, before: Tensor, after: Tensor, index: Tensor, gathered: Tensor
    ) -> Tensor:
        rows, columns = tile(len(product))
        change, which = after - before, index.int()
        new: Tensor = column_step(product, change, gathered, which, tf32(), rows, columns)
        return new


def tf32() -> bool:
    """Say whether torch is allowed to round the factors of a product to TF32."""
    settings: Any = torch.backends.cuda.matmul
    said = getattr(settings, "fp32_precision", "none")  # since torch 2.9, beside the older switch
    return bool(settings.allow_tf32) if said == "none" else said == "tf32"
