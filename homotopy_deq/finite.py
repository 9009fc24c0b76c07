"""Samples whose input is not finite: they are not solved, so that they spoil no shared weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from solvers import Solution, Status
from solvers.norms import finite


def finite_rows(x: Any) -> Tensor | None:
    """Return the samples of x without NaN or infinity, int64, or None where all are."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.layout != torch.strided:
        return None
    if x.is_nested or x.dim() == 0 or x.numel() == 0:
        return None
    low, high = x.detach().aminmax()  # NaN propagates into both
    if bool(torch.isfinite(low) & torch.isfinite(high)):
        return None
    return finite(x).nonzero().squeeze(1)


def rows_of(z0: Any, rows: Tensor) -> Any:
    """Return the rows of a start: a tensor, a tuple of them, a `Solution` of either, or None."""
    if z0 is None:
        return None
    value = z0.value if isinstance(z0, Solution) else z0
    return _each(lambda z: z.index_select(0, rows), value)


def spread_rows(part: Tensor, rows: Tensor, batch: int, fill: float, dim: int = 0) -> Tensor:
    """Return a tensor of all samples: `part` at `rows` of a dimension, `fill` elsewhere."""
    shape = (*part.shape[:dim], batch, *part.shape[dim + 1 :])
    return part.new_full(shape, fill).index_copy(dim, rows, part)


def put_back(found: Solution[Any], rows: Tensor, batch: int, z0: Any) -> Solution[Any]:
    """Return the solution of all samples from that of `rows`: the others are NONFINITE.

    Arguments:
        found: the solution of those rows.
        rows: their places in the batch, int64.
        batch: the number of all samples.
        z0: the start, which the others hold; 0 where it is None.
    """
    start = z0.value if isinstance(z0, Solution) else z0

    def spread(part: Tensor, fill: float, dim: int = 0) -> Tensor:
        return spread_rows(part, rows, batch, fill, dim)

    def value(part: Tensor, begin: Tensor | None) -> Tensor:
        return spread(part, 0) if begin is None else begin.detach().index_copy(0, rows, part)

    def values(parts: Any) -> Any:
        if isinstance(parts, tuple):
            begins = start or (None,) * len(parts)
            return tuple(value(part, begin) for part, begin in zip(parts, begins, strict=True))
        return value(parts, start)

    path = found.trajectory
    if path is not None:
        path = replace(
            path,
            z=_each(lambda z: spread(z, 0, 1), path.z),
            residual=spread(path.residual, float("inf"), 1),
            time=None if path.time is None else spread(path.time, 0, 1),
        )
    return replace(
        found,
        value=values(found.value),
        status=spread(found.status, Status.NONFINITE),
        steps=spread(found.steps, 0),
        evals=spread(found.evals, 0),
        residual=spread(found.residual, float("inf")),
        bound=found.bound and found.bound.each(lambda part: spread(part, float("inf"))),
        trajectory=path,
    )


def _each(f: Callable[[Tensor], Tensor], value: Any) -> Any:
    return tuple(f(part) for part in value) if isinstance(value, tuple) else f(value)
