"""What a delta iteration knows between two steps."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..solver import Evaluated
from ..status import Status
from ..structure import Cached


@dataclass(frozen=True)
class DeltaState(Evaluated):
    """Beside r, here z, and f(r): what the map keeps, and how the solve began.

    Arguments:
        gap: f(r) - r, (B, ...).
        before: f(r) of the step before, (B, ...): the reference of the rule as published.
        sent: the z that the map was last brought up to date to, (B, ...).
        cached: what the map keeps of that; None before, and where the map offers nothing.
        first: ||f(z) - z|| at the start, (B,).
        count: steps taken, shared by the batch.
        contraction: l of the bounds, or None where none is claimed.
        held: which samples have ended, bool (B,), or None where all run.
        idle: steps to come that move all entries, as looking which change did not pay.
    """

    gap: Tensor
    before: Tensor
    sent: Tensor
    cached: Cached | None
    first: Tensor
    count: int
    contraction: float | None
    held: Tensor | None
    idle: int = field(default=0, kw_only=True)
    status: Tensor = field(kw_only=True)


def ended(code: Tensor) -> Tensor | None:
    """Return which samples have ended, by their status, or None where all run."""
    held = code != Status.RUNNING
    return held if bool(held.any()) else None
