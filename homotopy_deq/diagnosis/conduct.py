"""What a map does beside returning f(z): whether it is one map, of rows, that writes nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from solvers import Equilibrium
from solvers.guard import Guard
from solvers.norms import finite, relative
from solvers.verify import ROUNDING

SEEN = 0.02
"""The largest change that may be rounding: so many units of bfloat16's would be a half."""


@dataclass(frozen=True)
class Conduct:
    """How a map was seen to behave.

    Arguments:
        finite: the share of samples with a finite f(z0).
        deterministic: two calls gave the same.
        rowwise: rows stayed the same while others changed; None where there is one row alone.
        coupled: the rows are declared to be one system.
        writes: it writes into its arguments.
        reuses: it returns the same memory each time.
        precision: of what it computes, as under autocast.
        dtype: of the state.
    """

    finite: float
    deterministic: bool
    rowwise: bool | None
    coupled: bool
    writes: bool
    reuses: bool
    precision: torch.dtype
    dtype: torch.dtype


def watch(problem: Equilibrium, z0: Tensor, coupled: bool) -> Conduct:
    """Call a map a few times, and say how it behaves.

    It is asked at f(z0): a start of zeros hides dropout, and its rows are all the same.

    Arguments:
        problem: as solvers see it (`solvers.packing.pack`), without a promise of its rows.
        z0: the start, (B, n).
        coupled: the rows are declared to be one system.
    """
    guard = problem.map
    assert isinstance(guard, Guard)
    z = problem(z0)
    first, again = problem(z), problem(z)
    precision = guard.precision or z0.dtype
    rounding = min(ROUNDING * torch.finfo(precision).eps, SEEN)
    fine = finite(z) & finite(first)
    same = ~fine | (relative(again - first, first) <= rounding)
    deterministic = bool(same.all())
    rowwise = None
    if deterministic and not coupled and bool(fine.all()):
        rowwise = _rowwise(problem, z, first, rounding)
    return Conduct(
        finite=fine.float().mean().item(),
        deterministic=deterministic,
        rowwise=rowwise,
        coupled=coupled,
        writes=bool(guard.writes),
        reuses=bool(guard.reuses),
        precision=precision,
        dtype=z0.dtype,
    )


def _rowwise(problem: Equilibrium, z: Tensor, image: Tensor, rounding: float) -> bool | None:
    """Say whether the first rows of f(z) stay as they are once the others are copies of them.

    A permutation would leave the statistics of a batch as they are.
    """
    kept = len(z) // 2
    if kept == 0:
        return None
    index = torch.arange(len(z), device=z.device) % kept
    closed = problem.everything is not None  # over its inputs, whose rows stay
    other = (problem if closed else problem.rows(index))(z.index_select(0, index))
    return bool((relative(other - image, image)[:kept] <= rounding).all())
