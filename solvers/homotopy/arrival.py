"""From a point of a curve to the next one: on Krylov spaces, or with a factored Jacobian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..linear import LinearSolver
from ..norms import TINY, dot, expand, norm
from ..problem import Counter, Equilibrium
from ..solver import Solver
from .curve import Curve, Factors
from .endgame import scatter

CORRECTION = 1e-3  # of a step's length; at 1e-2 one draw in twenty of the tanh suite is lost
ARRIVED = 3e-3  # likewise for the chord method, whose points are looked at once more
NEAR = 1e-2  # of a step's length: what Newton's method may still correct where chords arrived
RANK = 0.1  # a tangent t with ||G' t|| above it is none: G' has lost rank, or GMRES its way
ROUNDING = 2.0  # units in the last place of w
CHORDS = 5  # corrections with one factorisation; slow ones mean that the step is too long
SLOW = 0.5  # of a correction over the one before; Deuflhard (2004), Newton methods, 4.4


@dataclass(frozen=True)
class Departure:
    """Where a step sets out, and how long it is to be.

    Arguments:
        w: the point, (B, n + 1).
        tangent: its unit tangent, (B, n + 1).
        guess: the step that is predicted, (B, n + 1).
        ds: its length along the tangent, (B,).
        lu: of [G'(w); r^T], as in `Factors`, where there are any.
        pivots: those of `lu`.
    """

    w: Tensor
    tangent: Tensor
    guess: Tensor
    ds: Tensor
    lu: Tensor | None = None
    pivots: Tensor | None = None

    def rows(self, index: Tensor) -> Departure:
        """Return those of the samples `index` alone."""
        chosen: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        for name, x in chosen.items():
            chosen[name] = x if x is None else x.index_select(0, index)
        return Departure(**chosen)


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
    lu: Tensor | None = None
    pivots: Tensor | None = None


def by_krylov(
    curve: Curve,
    at: Departure,
    corrector: Solver[Equilibrium, Any],
    *,
    straight: float,
    linear: LinearSolver,
    tangents: bool,
) -> Arrival:
    """Correct by a solver of the bordered equation, and take the tangent by GMRES.

    Arguments:
        curve: the equations.
        at: where the step sets out.
        corrector: the solver; its tolerance is relative to the step.
        straight: cosine of the largest angle between the step and the tangent.
        linear: solver of the tangent's system.
        tangents: whether tangents are wanted; if not, they are the secants.
    """
    found = run(curve.slice(at.w, at.tangent, at.ds), corrector, at.guess)
    moved, length = found.value, norm(found.value)
    # The step along the tangent is ds exactly, so ds / length is the cosine of the turn.
    ok = found.converged & (at.ds >= straight * length)
    tangent = moved / expand(length.clamp_min(TINY), moved)
    faint = torch.zeros_like(ok)
    evals = found.evals
    if tangents and bool(ok.any()):
        counter = Counter(curve.family.map)
        counted = replace(curve, family=replace(curve.family, map=counter))
        w = at.w + moved
        index = ok.nonzero().squeeze(1)
        some, miss = counted.rows(index).tangent(w[index], tangent[index], rtol=0.1, linear=linear)
        tangent = scatter(some, index, tangent)
        faint = scatter(~(miss < RANK), index, faint)
        evals = evals + torch.where(ok, counter.count, 0)
    return Arrival(moved, ok & ~faint, found.steps, tangent, faint, evals)


def by_factors(curve: Curve, at: Departure, *, straight: float) -> Arrival:
    """Correct by the chord method with the Jacobian of the point before: one a step is formed.

        d <- d - [G'(w); t^T]^-1 [G(w + d); <t, d> - ds].

    A correction c after one of b leaves about c^2 / (b - c): a sample has arrived where that is
    `ARRIVED` of the step, and has not where c > `SLOW` b, which says that the step was too
    long for the Jacobian.
    """
    assert at.lu is not None and at.pivots is not None
    factors = Factors(at.lu, at.pivots, at.tangent)
    d, ds = at.guess, at.ds
    ok = torch.zeros_like(ds, dtype=torch.bool)
    open_ = ~ok
    effort = torch.zeros_like(ds, dtype=torch.int64)
    before = 0.5 * ds  # the first correction is about half of ds^2 times the curvature
    # G of a point cannot be told from 0 below; corrections of it may still be long, and in vain.
    floor = ROUNDING * torch.finfo(d.dtype).eps * norm(at.w).clamp_min(1)
    for k in range(CHORDS):
        gap, off = curve.gap(at.w + d), dot(at.tangent, d) - ds
        change = factors.solve(gap, off)
        size = norm(change)
        d = torch.where(open_[:, None], d - change, d)
        effort = effort + open_
        rate = size / before.clamp_min(TINY)
        left = size * rate / (1 - rate)
        exact = (norm(gap) <= floor) & (off.abs() <= floor)
        ok = ok | (open_ & (exact | ((rate < 1) & (left <= ARRIVED * norm(d)))))
        open_ = open_ & ~ok & torch.isfinite(size) & ((rate <= SLOW) | (k == 0))
        if not bool(open_.any()):
            break
        before = size
    ok = ok & (ds >= straight * norm(d))
    if not bool(ok.any()):
        return Arrival(d, ok, effort, at.tangent, ok, effort, at.lu, at.pivots)
    index = ok.nonzero().squeeze(1)
    counter = Counter(curve.family.map)
    there = replace(curve, family=replace(curve.family, map=counter)).rows(index)
    w, guide = (at.w + d)[index], d[index] / expand(norm(d[index]).clamp_min(TINY), d[index])
    new, error = there.factored(w, guide)
    # Near a singular point chords may stall unseen, and the path be lost from where they did.
    gap = there.gap(w)
    change = new.solve(gap, torch.zeros_like(error))
    near = norm(change) <= NEAR * norm(d[index])
    exact = norm(gap) <= floor[index]
    d = scatter(torch.where(near[:, None], d[index] - change, d[index]), index, d)
    fine = ok & scatter(near | exact, index, ok)
    faint = scatter(~(error < RANK), index, torch.zeros_like(ok))
    evals = effort + torch.where(ok, counter.count, 0)
    return Arrival(
        d,
        fine & ~faint,
        effort,
        scatter(new.null, index, at.tangent),
        ok & faint,
        evals,
        scatter(new.lu, index, at.lu),
        scatter(new.pivots, index, at.pivots),
    )


Way = Callable[[Curve, Departure], Arrival]


def by_either(curve: Curve, at: Departure, formed: Tensor, factors: Way, krylov: Way) -> Arrival:
    """Take the step of each sample in its own way, that of the `formed`, bool (B,), by factors."""
    if not bool(formed.any()):
        return krylov(curve, at)
    if bool(formed.all()):
        return factors(curve, at)
    yes, no = formed.nonzero().squeeze(1), (~formed).nonzero().squeeze(1)
    parts = factors(curve.rows(yes), at.rows(yes)), krylov(curve.rows(no), at.rows(no))
    return merged(formed, *parts)


def merged(formed: Tensor, yes: Arrival, no: Arrival) -> Arrival:
    """Return the arrivals of the samples `formed`, bool (B,), and of the others, as one."""
    index, others = formed.nonzero().squeeze(1), (~formed).nonzero().squeeze(1)
    joined = {}
    for each in fields(yes):
        a, b = getattr(yes, each.name), getattr(no, each.name)
        full = a.new_zeros(len(formed), *a.shape[1:]) + (each.name == "pivots")  # from 1 on
        joined[each.name] = scatter(a, index, full if b is None else scatter(b, others, full))
    return Arrival(**joined)
