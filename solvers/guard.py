"""Maps that write: into what they are given, or over what they returned before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .precision import Watch
from .structure import Map, Wrapped

LATE = (
    "The map wrote into its argument, which it did not in its first call (or promised not to by "
    "rowwise=True), so the state is lost. "
    "Write z * a in the place of z.mul_(a), and ReLU() in the place of ReLU(inplace=True)."
)


class Guard(Wrapped):
    """Call a map such that nothing it writes reaches a caller's tensor or a solver's.

    The first call is on copies, and shows whether the map writes into its arguments
    (`z.mul_(.5)`, `nn.ReLU(inplace=True)`); if so every call is. The second shows whether it
    returns the same memory each time (`out=buffer`); if so each result is copied. A map that
    does neither costs one copy of its arguments a solve. Writes are seen by torch's version
    counters, which writes to `z.data` and through NumPy pass by.

    Arguments:
        function: the map.
        lowered: the dtype that autocast lowers operations to, where it is on for the caller. The
            map is then called under it wherever it is: the solvers' own arithmetic and backward
            passes are not. The first call shows whether it computes in it: `precision`, of the
            result otherwise.
        trusted: the map promises to write nothing: no copies, but a write is still refused.

    Raises:
        RuntimeError: the map begins to write after a first call in which it did not.
    """

    def __init__(
        self, function: Map, lowered: torch.dtype | None = None, *, trusted: bool = False
    ) -> None:
        self.function = function
        self.lowered = lowered
        self.precision: torch.dtype | None = None  # None before the first call
        self.writes: bool | None = False if trusted else None  # None before the first call
        self.reuses: bool | None = False if trusted else None  # None before the second
        self.first: Any = None  # what the first call returned, until the second

    def __call__(self, *args: Tensor) -> Any:
        if self.writes is False and self.reuses is False and self.precision is not None:
            # all that is left to watch
            before = [arg._version for arg in args]
            out = self._evaluate(*args)
            if before != [arg._version for arg in args]:
                raise RuntimeError(LATE)
            return out
        given = args if self.writes is False else tuple(arg.clone() for arg in args)
        before = [arg._version for arg in given]
        out = self._evaluate(*given) if self.precision is not None else self._watched(*given)
        if self.writes is not True:
            wrote = before != [arg._version for arg in given]
            if self.writes is None:
                self.writes = wrote
            elif wrote:
                raise RuntimeError(LATE)
        return self._kept(out)

    def _evaluate(self, *args: Tensor) -> Any:
        if self.lowered is None:
            return self.function(*args)
        with torch.autocast(args[-1].device.type, self.lowered):
            return self.function(*args)

    def _watched(self, *args: Tensor) -> Any:
        """Return the map's result, and see in which precision it was computed."""
        if self.lowered is None:
            out = self._evaluate(*args)
        else:
            with Watch(self.lowered) as watch:
                out = self._evaluate(*args)
            if watch.seen:
                self.precision = self.lowered
        if self.precision is None and isinstance(out, Tensor) and out.is_floating_point():
            self.precision = out.dtype
        return out

    def _kept(self, out: Any) -> Any:
        """Return the map's result, in memory that it will not write to again."""
        if self.reuses is False or not isinstance(out, Tensor):
            return out
        if self.reuses is None:
            if self.first is None:
                self.first = out, out._version
                return out.clone()
            first, version = self.first
            self.reuses = first._version != version or first.data_ptr() == out.data_ptr()
            self.first = None
        return out.clone() if self.reuses else out
