"""The precision that a map computes in, and the tolerance that it lets a solver reach."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from .problem import Map
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


def fitted(solver: Solver[P, Any], function: Map, dtype: torch.dtype) -> Solver[P, Any]:
    """Return the solver with a tolerance that its map can meet.

    A map that computes in bfloat16 rounds f(z) to 3 digits, so no z has a residual of 1e-4. Where
    the map computes in less precision than the state is kept in, rtol is at least eps of that:
    8e-3 in bfloat16, 1e-3 in float16.

    Arguments:
        solver: any.
        function: what the solver evaluates; it has been called, so that its precision is known.
        dtype: of the state.
    """
    within: Any = function
    while isinstance(within, Wrapped):  # what a user's map calls its precision is its own
        precision = getattr(within, "precision", None)
        if precision is not None and torch.finfo(precision).eps > torch.finfo(dtype).eps:
            return solver.loosened(FLOOR * torch.finfo(precision).eps)
        within = within.function
    return solver
