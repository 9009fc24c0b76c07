"""Where samples stand on their paths."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..norms import expand
from ..problem import Counter
from ..solver import State
from ..status import Status
from .curve import Curve, Factors
from .endgame import scatter
from .family import Family


@dataclass(frozen=True)
class ArcState(State):
    """Where each sample stands on its path; `time` is its lambda.

    Arguments:
        w: the last point, in the coordinates of `Curve`, (B, n + 1).
        tangent: there, (B, n + 1).
        last_w: the point before, (B, n + 1).
        last_tangent: there, (B, n + 1).
        gap: arclength between the two, (B,); 0 at the start.
        ds: the next step, (B,).
        streak: easy steps in a row, int64 (B,).
        anchor: what the homotopy keeps of the start, (B, ...).
        unit: the length that z is measured in, (B,).
        first: ||f(z) - z|| at the start, (B,).
        code: each sample's `Status`, int8 (B,).
        formed: whose Jacobians are formed, bool (B,).
        lu: theirs at the last point, see `Factors`; None where there are none.
        pivots: those of `lu`.
    """

    w: Tensor
    tangent: Tensor
    last_w: Tensor
    last_tangent: Tensor
    gap: Tensor
    ds: Tensor
    streak: Tensor
    anchor: Tensor
    unit: Tensor
    first: Tensor
    code: Tensor
    formed: Tensor
    lu: Tensor | None = None
    pivots: Tensor | None = None

    @property
    def factors(self) -> Factors | None:
        """The factored Jacobians at the last point, if there are any."""
        if self.lu is None or self.pivots is None:
            return None
        return Factors(self.lu, self.pivots, self.tangent)


def resting(z: Tensor, lam: Tensor, unit: Tensor, theta: float, ds: float) -> ArcState:
    """Return the state of samples at z, (B, ...), and lam, (B,), that have no tangent yet.

    Arguments:
        unit: the length that z is measured in, (B,).
        theta: weight of z in the metric of `Curve`.
        ds: the first step.
    """
    w = Curve(Family(lambda z, lam: z), z.shape[1:], theta, unit).join(z, lam)
    none = torch.zeros_like(lam, dtype=torch.int64)
    return ArcState(
        z,
        z,
        torch.full_like(lam, float("inf")),
        w=w,
        tangent=torch.zeros_like(w),
        last_w=w,
        last_tangent=torch.zeros_like(w),
        gap=torch.zeros_like(lam),
        ds=torch.full_like(lam, ds),
        streak=none,
        anchor=z,
        unit=unit,
        first=torch.full_like(lam, float("inf")),
        code=none.to(torch.int8),
        formed=none.to(torch.bool),
        evals=none,
        time=lam,
    )


def formed(state: ArcState, family: Family, theta: float, chosen: Tensor) -> ArcState:
    """Return the state with the Jacobians of the samples `chosen`, bool (B,), formed.

    Arguments:
        state: where the samples stand.
        family: their equations.
        theta: weight of z in the metric of `Curve`.
        chosen: samples whose Jacobians are not formed yet.
    """
    assert state.evals is not None
    index = chosen.nonzero().squeeze(1)
    counter = Counter(family.map)
    curve = Curve(replace(family, map=counter), state.z.shape[1:], theta, state.unit).rows(index)
    factors, _ = curve.factored(state.w[index], state.tangent[index])
    batch, n = state.w.shape
    lu = state.w.new_zeros(batch, n, n) if state.lu is None else state.lu
    pivots = state.pivots
    if pivots is None:
        pivots = torch.ones(batch, n, dtype=factors.pivots.dtype, device=lu.device)
    return replace(
        state,
        tangent=scatter(factors.null, index, state.tangent),
        lu=scatter(factors.lu, index, lu),
        pivots=scatter(factors.pivots, index, pivots),
        formed=state.formed | chosen,
        evals=state.evals + torch.where(chosen, counter.count, 0),
    )


def halved(state: ArcState, smallest: float) -> ArcState:
    """Return the state with half the step; a sample whose step is too small then says so."""
    ds = 0.5 * state.ds
    code = torch.where(ds < smallest, Status.STEP_TOO_SMALL, state.code).to(torch.int8)
    return replace(state, ds=ds, streak=torch.zeros_like(state.streak), code=code)


def select(chosen: Tensor, yes: ArcState, no: ArcState) -> ArcState:
    """Return the rows `chosen`, bool (B,), of one state and the other rows of another."""
    merged: dict[str, Any] = {}
    for each in fields(yes):
        a, b = getattr(yes, each.name), getattr(no, each.name)
        if a is not b and isinstance(a, Tensor):
            merged[each.name] = torch.where(expand(chosen, a), a, b)
    return replace(no, **merged)
