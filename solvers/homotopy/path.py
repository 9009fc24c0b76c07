"""Where samples stand on their paths, and the chord method that takes them on."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..norms import divisor, dot, expand, norm
from ..solver import Tracked
from .curve import Curve, Factors
from .predictor import Cubic, Knot

S = TypeVar("S", bound="PathState")
ROUNDING = 2.0  # units in the last place of w


@dataclass(frozen=True)
class PathState(Tracked):
    """A point of each sample's path y(s), the point before it and the next step.

    `time` is lambda. A path along lambda has s = lambda and y = z, one along an arc has y = w in
    the coordinates of `Curve`, (B, n + 1).

    Arguments:
        y: the point, (B, ...).
        slope: dy/ds there, (B, ...).
        last_y: the point before, (B, ...).
        last_slope: dy/ds there, (B, ...).
        gap: what s grew by between the two, (B,); 0 at the start.
        ds: the next step, (B,).
        streak: easy steps in a row, int64 (B,).
        anchor: what the homotopy keeps of the start, (B, ...).
        first: ||f(z) - z|| at the start, (B,).
    """

    y: Tensor
    slope: Tensor
    last_y: Tensor
    last_slope: Tensor
    gap: Tensor
    ds: Tensor
    streak: Tensor
    anchor: Tensor
    first: Tensor

    @property
    def piece(self) -> Cubic:
        """The path between the two points."""
        return Cubic(Knot(self.last_y, self.last_slope), Knot(self.y, self.slope), self.gap)

    def where(self: S, chosen: Tensor, other: S) -> S:
        """Return the rows `chosen`, bool (B,), of this state and the other rows of another."""
        merged: dict[str, Any] = {}
        for each in fields(self):
            a, b = getattr(self, each.name), getattr(other, each.name)
            if a is not b and isinstance(a, Tensor):
                merged[each.name] = torch.where(expand(chosen, a), a, b)
        return replace(other, **merged)

    def put(self: S, index: Tensor, part: S) -> S:
        """Return this state with its rows `index`, int64, those of a part."""
        whole: dict[str, Any] = {}
        for each in fields(self):
            a, b = getattr(self, each.name), getattr(part, each.name)
            if isinstance(b, Tensor):
                a = b.new_ones(len(self.z), *b.shape[1:]) if a is None else a
                whole[each.name] = a.index_copy(0, index, b)
        return replace(self, **whole)


@dataclass(frozen=True)
class ArcState(PathState):
    """Where samples stand on curves: y is w.

    Arguments:
        unit: the length that z is measured in, (B,).
        moved: whether the last step led anywhere, bool (B,).
        effort: corrections that it took, int64 (B,).
        faint: whether no tangent was found there, bool (B,).
        formed: whose Jacobians are formed, bool (B,).
        lu: theirs at the last point, see `Factors`; None where there are none.
        pivots: those of `lu`.
    """

    unit: Tensor
    moved: Tensor
    effort: Tensor
    faint: Tensor
    formed: Tensor
    lu: Tensor | None = None
    pivots: Tensor | None = None

    @property
    def factors(self) -> Factors | None:
        """The factored Jacobians at the last point, if there are any."""
        if self.lu is None or self.pivots is None:
            return None
        return Factors(self.lu, self.pivots, self.slope)


def resting(curve: Curve, z: Tensor, lam: Tensor, ds: float) -> ArcState:
    """Return the state at z, (B, ...), and lam, (B,), where no tangent is known yet."""
    w = curve.join(z, lam)
    zero, none = torch.zeros_like(lam), torch.zeros_like(lam, dtype=torch.int64)
    no, far = none.to(torch.bool), zero + math.inf
    return ArcState(
        z, far, w, torch.zeros_like(w), w, torch.zeros_like(w), gap=zero, ds=zero + ds, streak=none,
        anchor=z, unit=curve.unit, first=far, moved=no, effort=none, faint=no, formed=no,
        status=none.to(torch.int8), evals=none, time=lam,
    )  # fmt: skip


def rounding(w: Tensor) -> Tensor:
    """Return the norm of G(w) below which it cannot be told from 0, (B,)."""
    return ROUNDING * torch.finfo(w.dtype).eps * norm(w).clamp_min(1)


@dataclass(frozen=True)
class Chord:
    """Correct by the chord method with the Jacobian of the point before: one a step is formed.

        d <- d - [G'(w); t^T]^-1 [G(w + d); <t, d> - ds].

    A correction c after one of b leaves about c^2 / (b - c): a sample has arrived where that is
    `rtol` of the step, and has not where c > `slow` b, which says that the step was too long for
    the Jacobian.

    Arguments:
        rtol: error of a point that is left, relative to the step.
        max_steps: corrections with one factorisation; more mean that the step is too long.
        slow: of a correction over the one before.

    References:
        P. Deuflhard (2004), Newton methods for nonlinear problems, section 4.4.
    """

    rtol: float = 3e-3  # at 1e-2 one draw in twenty of the tanh suite is lost
    max_steps: int = 5
    slow: float = 0.5

    def correct(
        self,
        curve: Curve,
        state: ArcState,
        d: Tensor,
        plane: tuple[Tensor, Tensor] | None = None,
        error: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the steps d to where curves meet planes <row, d> = offset.

        Arguments:
            curve: the equations.
            state: where the steps begin and Jacobians are factored.
            d: where the steps are expected to lead, (B, n + 1).
            plane: row, (B, n + 1), not orthogonal to the tangent, and offset, (B,); by default
                those of the next step.
            error: norm of G that may be left, (B,); by default, of d `rtol` of the next step.

        Returns:
            d, (B, n + 1), whose arrived, bool (B,), and the corrections that each took, int64 (B,).
        """
        row, offset = (state.slope, state.ds) if plane is None else plane
        # The first correction is about half of ds^2 times the curvature, unless d was well chosen.
        before = 0.5 * state.ds if plane is None else torch.zeros_like(state.ds)
        tolerance = self.rtol * state.ds if error is None else error
        factors = state.factors
        assert factors is not None
        ok = torch.zeros_like(state.formed)
        open_, effort = ~ok, torch.zeros_like(state.streak)
        floor = rounding(state.y)  # corrections may still be long below it, and in vain
        for k in range(self.max_steps):
            gap, off = curve.gap(state.y + d), dot(row, d) - offset
            change = factors.solve(gap, off, row)
            size = norm(change)
            d = torch.where(open_[:, None], d - change, d)
            effort = effort + open_
            rate = size / divisor(before)
            left = (size if error is None else norm(gap)) * rate / (1 - rate)
            exact = (norm(gap) <= floor) & (off.abs() <= floor)
            ok = ok | (open_ & (exact | ((rate < 1) & (left <= tolerance))))
            open_ = open_ & ~ok & torch.isfinite(size) & ((rate <= self.slow) | (k == 0))
            if not bool(open_.any()):
                break
            before = size
        return d, ok, effort
