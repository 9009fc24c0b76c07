"""One step along a curve: where samples stand, and how they get to the next point."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..linear import LinearSolver
from ..norms import TINY, dot, expand, norm
from ..problem import Equilibrium
from ..rows import scatter
from ..solver import Solver, Tracked
from .curve import Curve, Factors
from .family import Family
from .predictor import Cubic, Knot

NEAR = 1e-2  # of a step's length: what Newton's method may still correct where chords arrived
RANK = 0.1  # a tangent t with ||G' t|| above it is none: G' has lost rank, or GMRES its way
ROUNDING = 2.0  # units in the last place of w


@dataclass(frozen=True)
class ArcState(Tracked):
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
    formed: Tensor
    lu: Tensor | None = None
    pivots: Tensor | None = None

    @property
    def here(self) -> Knot:
        """The last point."""
        return Knot(self.w, self.tangent)

    @property
    def last(self) -> Knot:
        """The point before it."""
        return Knot(self.last_w, self.last_tangent)

    @property
    def piece(self) -> Cubic:
        """The path between the two."""
        return Cubic(self.last, self.here, self.gap)

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
    zero, none = torch.zeros_like(lam), torch.zeros_like(lam, dtype=torch.int64)
    return ArcState(
        z, zero + float("inf"), w, torch.zeros_like(w), w, torch.zeros_like(w),
        gap=zero, ds=zero + ds, streak=none, anchor=z, unit=unit, first=zero + float("inf"),
        status=none.to(torch.int8), formed=none.to(torch.bool), evals=none, time=lam,
    )  # fmt: skip


def select(chosen: Tensor, yes: ArcState, no: ArcState) -> ArcState:
    """Return the rows `chosen`, bool (B,), of one state and the other rows of another."""
    merged: dict[str, Any] = {each.name: getattr(no, each.name) for each in fields(no)}
    for name, b in merged.items():
        a = getattr(yes, name)
        if a is not b and isinstance(a, Tensor):
            merged[name] = torch.where(expand(chosen, a), a, b)
    return ArcState(**merged)


@dataclass(frozen=True)
class Arrival:
    """Where a step led.

    Arguments:
        moved: the step, (B, n + 1).
        ok: whether the point was reached, bool (B,).
        effort: corrections that it took, int64 (B,).
        tangent: there, (B, n + 1).
        faint: samples without a tangent, bool (B,).
        evals: evaluations and products, int64 (B,).
        lu: of the point, where it was formed.
        pivots: those of `lu`.
    """

    moved: Tensor
    ok: Tensor
    effort: Tensor
    tangent: Tensor
    faint: Tensor
    evals: Tensor
    lu: Tensor | None
    pivots: Tensor | None


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

    def arrive(self, curve: Curve, state: ArcState, guess: Tensor, straight: float) -> Arrival:
        """Take the step of samples whose Jacobians are formed.

        Arguments:
            curve: the equations.
            state: where they stand.
            guess: the step that is predicted, (B, n + 1).
            straight: cosine of the largest angle between the step and the tangent.
        """
        factors, ds, d = state.factors, state.ds, guess
        assert factors is not None and state.lu is not None and state.pivots is not None
        ok = torch.zeros_like(ds, dtype=torch.bool)
        open_ = ~ok
        effort = torch.zeros_like(ds, dtype=torch.int64)
        before = 0.5 * ds  # the first correction is about half of ds^2 times the curvature
        # G of a point cannot be told from 0 below; its corrections may still be long, and in vain.
        floor = ROUNDING * torch.finfo(d.dtype).eps * norm(state.w).clamp_min(1)
        for k in range(self.max_steps):
            gap, off = curve.gap(state.w + d), dot(state.tangent, d) - ds
            change = factors.solve(gap, off)
            size = norm(change)
            d = torch.where(open_[:, None], d - change, d)
            effort = effort + open_
            rate = size / before.clamp_min(TINY)
            left = size * rate / (1 - rate)
            exact = (norm(gap) <= floor) & (off.abs() <= floor)
            ok = ok | (open_ & (exact | ((rate < 1) & (left <= self.rtol * norm(d)))))
            open_ = open_ & ~ok & torch.isfinite(size) & ((rate <= self.slow) | (k == 0))
            if not bool(open_.any()):
                break
            before = size
        ok = ok & (ds >= straight * norm(d))
        if not bool(ok.any()):
            return Arrival(d, ok, effort, state.tangent, ok, effort, state.lu, state.pivots)
        index = ok.nonzero().squeeze(1)
        there, counter = curve.rows(index).counted()
        moved = d[index]
        w, guide = (state.w + d)[index], moved / expand(norm(moved).clamp_min(TINY), moved)
        new, error = there.factored(w, guide)
        # Near a singular point chords may stall unseen, and the path be lost from where they did.
        gap = there.gap(w)
        change = new.solve(gap, torch.zeros_like(error))
        near = norm(change) <= NEAR * norm(moved)
        fine = scatter(near | (norm(gap) <= floor[index]), index, ok)
        faint = scatter(~(error < RANK), index, torch.zeros_like(ok))
        return Arrival(
            moved=scatter(torch.where(near[:, None], moved - change, moved), index, d),
            ok=ok & fine & ~faint,
            effort=effort,
            tangent=scatter(new.null, index, state.tangent),
            faint=faint,
            evals=effort + torch.where(ok, counter.count, 0),
            lu=scatter(new.lu, index, state.lu),
            pivots=scatter(new.pivots, index, state.pivots),
        )


def arrive(
    corrector: Solver[Equilibrium, Any],
    curve: Curve,
    state: ArcState,
    guess: Tensor,
    straight: float,
    linear: LinearSolver | None,
) -> Arrival:
    """Take the step by a solver of the bordered equation.

    Arguments:
        corrector: the solver; its tolerance is relative to the step.
        curve: the equations.
        state: where the samples stand.
        guess: the step that is predicted, (B, n + 1).
        straight: cosine of the largest angle between the step and the tangent.
        linear: solver of the tangent's system; None where the secant will do.
    """
    found = run(curve.slice(state.w, state.tangent, state.ds), corrector, guess)
    moved, length = found.value, norm(found.value)
    # The step along the tangent is ds exactly, so ds / length is the cosine of the turn.
    ok = found.converged & (state.ds >= straight * length)
    tangent = moved / expand(length.clamp_min(TINY), moved)
    faint, evals = torch.zeros_like(ok), found.evals
    if linear is not None and bool(ok.any()):
        index = ok.nonzero().squeeze(1)
        there, counter = curve.rows(index).counted()
        w, guide = (state.w + moved)[index], tangent[index]
        some, miss = there.tangent(w, guide, rtol=0.1, linear=linear)
        tangent = scatter(some, index, tangent)
        faint = scatter(~(miss < RANK), index, faint)
        evals = evals + torch.where(ok, counter.count, 0)
    return Arrival(moved, ok & ~faint, found.steps, tangent, faint, evals, state.lu, state.pivots)


def joined(yes: Tensor, first: Arrival, no: Tensor, second: Arrival) -> Arrival:
    """Return the arrivals of the samples `yes` and of the samples `no`, int64, as one."""
    parts: dict[str, Any] = {}
    for each in fields(first):
        a, b = getattr(first, each.name), getattr(second, each.name)
        whole = torch.cat((a, b))  # every row is of one or of the other
        parts[each.name] = scatter(b, no, scatter(a, yes, whole))
    return Arrival(**parts)
