"""The precision that a map computes in, and the tolerance that it lets a solver reach."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .solver import P, Solver
from .structure import Wrapped

FLOOR = 1.0
"""Units of eps that a relative residual reaches safely: of 64 samples of dense, convolutional and
attention cells that contract, in bfloat16 and float16, the worst stalled at .02 to .6."""


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """See whether anything is computed in a dtype, as under autocast: the result may be wider."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen |= getattr(out, "dtype", None) == self.dtype
        return out


def fitted(solver: Solver[P, Any], problem: P, dtype: torch.dtype) -> Solver[P, Any]:
    """Return the solver with a tolerance that its problem's maps can meet.

    A map that computes in bfloat16 rounds f(z) to 3 digits, so no z has a residual of 1e-4. Where
    a map computes in less precision than the state is kept in, rtol is at least eps of that:
    8e-3 in bfloat16, 1e-3 in float16.

    Arguments:
        solver: any.
        problem: what it solves; its maps that were called have shown their precision.
        dtype: of the state.
    """
    eps = max(_eps(function) for function in problem.functions)
    return solver.loosened(FLOOR * eps) if eps > torch.finfo(dtype).eps else solver


def _eps(function: object) -> float:
    """Return the largest eps that a map was seen to compute with, 0 where it was not called."""
    eps, within = 0.0, cast("Any", function)
    while isinstance(within, Wrapped):  # what a user's map calls its precision is its own
        precision = getattr(within, "precision", None)
        if precision is not None:
            eps = max(eps, torch.finfo(precision).eps)
        within = within.function
    return eps
