"""Pseudo-arclength continuation: paths with folds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..newton import NewtonKrylov
from ..norms import TINY, dot, expand, norm
from ..problem import Counter, Equilibrium
from ..solver import Solver, State, start
from ..status import Status
from .control import StepControl
from .curve import Curve, start_guide
from .direct import NewtonDirect
from .endgame import polish, scatter, where_crossed
from .family import Family
from .maps import FixedPoint, Homotopy
from .predictor import Knot, Predictor, Tangent

CORRECTION = 1e-3  # of a step's length; at 1e-2 one draw in twenty of the tanh suite is lost
RANK = 0.1  # a tangent t with ||G' t|| above it is none: G' has lost rank, or GMRES its way


@dataclass(frozen=True)
class ArcState(State):
    """Where each sample stands on its path; `time` is its lambda.

    Arguments:
        here, last: (w, tangent) at the last two points, each (B, n + 1).
        gap: arclength between the two, (B,); 0 at the start.
        ds: the next step, (B,).
        streak: easy steps in a row, int64 (B,).
        anchor: what the homotopy keeps of the start, (B, ...).
        code: each sample's `Status`, int8 (B,).
    """

    w: Tensor
    tangent: Tensor
    last_w: Tensor
    last_tangent: Tensor
    gap: Tensor
    ds: Tensor
    streak: Tensor
    anchor: Tensor
    code: Tensor


@dataclass(frozen=True)
class ArcLength(Solver[Equilibrium, ArcState]):
    """Follow the root of z = h(z, lambda) by arclength from lambda = 0 until it crosses 1.

        G(w) = 0,   <tangent, w - w_last> = ds,   w = (z, lambda) scaled, see `Curve`.

    lambda is an unknown like z: the path may turn back at folds and leave [0, 1]. Every sample
    has its own step. Points are corrected loosely; where lambda crosses 1 the path is
    interpolated and the root polished to the tolerance, so that a CONVERGED sample's residual is
    that of f.

    A sample ends STEP_TOO_SMALL where steps below the smallest fail, RANK_LOSS where they fail
    and the bordered system is singular (a bifurcation, or `krylov` too small), LOST_PATH where
    the path runs off beyond `bound`, or where it has no start.

    Arguments:
        homotopy: the family of equations; its start is z0.
        predictor: extrapolates the path.
        corrector: solver of the bordered equation; its tolerance, relative to the step, is that
            of the path. By default Newton's method to 1e-3.
        control: the length of the steps, in the metric of `Curve`.
        theta: weight of z in that metric, in (0, 1).
        krylov: dimension of the Krylov spaces at most.
        dense: up to this many entries of z Jacobians are formed and factored instead. At 50
            entries that takes 2 to 5 times the evaluations, and in a large batch half the time.
        bound: a path whose root mean square of z exceeds `bound` (1 + that of z0), or whose
            lambda exceeds `bound`, is lost.

    References:
        H. Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems.
        L. Watson, S. Billups, A. Morgan (1987), HOMPACK (the endgame).
    """

    max_steps: int = field(default=1000, kw_only=True)
    homotopy: Homotopy = FixedPoint()
    predictor: Predictor = Tangent()
    corrector: Solver[Equilibrium, Any] | None = None
    control: StepControl = StepControl()
    theta: float = 0.5
    krylov: int = 100
    dense: int = 16
    bound: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.theta < 1 and self.krylov >= 1 and self.bound > 1):
            raise ValueError(
                "ArcLength needs theta in (0, 1), krylov >= 1 and bound > 1; got "
                f"theta={self.theta}, krylov={self.krylov}, bound={self.bound}."
            )

    @property
    def compacts_below(self) -> float:
        return 1.0  # a step is a nonlinear solve

    def init(self, problem: Equilibrium, z0: Tensor) -> ArcState:
        first = start(problem, z0)
        anchor = self.homotopy.anchor(problem, z0)
        lam = torch.zeros_like(first.residual).to(z0.dtype)
        tolerance = self.rtol + self.atol / norm(first.fz).clamp_min(TINY)
        solved = first.residual <= tolerance
        family = self.homotopy.family(problem, anchor)
        state = self.begin(family, z0, lam, rooted=self.homotopy.rooted)
        assert state.evals is not None
        return replace(
            state,
            z=torch.where(expand(solved, z0), z0, state.z),
            fz=first.fz,
            residual=first.residual,
            anchor=anchor,
            code=torch.where(solved, Status.CONVERGED, state.code).to(torch.int8),
            evals=state.evals + 1,
        )

    def step(self, problem: Equilibrium, state: ArcState) -> ArcState:
        assert state.time is not None and state.evals is not None
        family = self.homotopy.family(problem, state.anchor)
        new, ok = self.advance(family, state)
        assert new.time is not None and new.evals is not None
        end = ok & ((new.time >= 1) != (state.time >= 1))
        if bool(end.any()):
            last, here = Knot(new.last_w, new.last_tangent), Knot(new.w, new.tangent)
            curve = Curve(family, state.z.shape[1:], self.theta)
            crossing, _ = curve.split(where_crossed(curve, last, here, new.gap))
            answer = polish(problem, self._polisher(), crossing, end)
            evals = new.evals + answer.evals
            # Where the polish fails the step was too long: the path is taken up from before it.
            new = select(end & ~answer.converged, self._halved(state), new)
            end &= answer.converged
            assert new.time is not None
            new = replace(
                new,
                z=torch.where(expand(end, new.z), answer.value, new.z),
                residual=torch.where(end, answer.residual.to(new.residual), new.residual),
                code=torch.where(end, Status.CONVERGED, new.code).to(torch.int8),
                time=torch.where(end, 1.0, new.time).to(new.z.dtype),
                evals=evals,
            )
        if not bool(end.all()):  # the others stand elsewhere than at a root of f
            there = start(problem, new.z).residual
            new = replace(new, residual=torch.where(end, new.residual, there))
        return new

    def begin(
        self, family: Family, z: Tensor, lam: Tensor, direction: float = 1.0, *, rooted: bool
    ) -> ArcState:
        """Return the state at the root of z = h(z, lam) near z, towards larger lambda first.

        Arguments:
            family: the equations, of the batch of z.
            z, lam: the start, (B, ...) and (B,).
            direction: -1 to set out towards smaller lambda.
            rooted: whether z is that root, so that it need not be found.
        """
        evals = torch.zeros_like(lam, dtype=torch.int64)
        code = torch.zeros_like(lam, dtype=torch.int8)
        if not rooted:
            root = run(family.at(lam), replace(self._corrector(z), max_steps=50), z)
            z, evals = root.value, root.evals
            code = torch.where(root.converged, code, Status.LOST_PATH).to(torch.int8)
        curve, counter = self._curve(family, z)
        w = curve.join(z, lam)
        guide = start_guide(curve, z, direction)
        tangent, miss = curve.tangent(w, guide, rtol=1e-2, krylov=self._space(z))
        lost = (code == Status.RUNNING) & ~(miss < RANK)
        return ArcState(
            z,
            z,
            torch.full_like(lam, float("inf")),
            w=w,
            tangent=tangent,
            last_w=w,
            last_tangent=tangent,
            gap=torch.zeros_like(lam),
            ds=torch.full_like(lam, self.control.ds),
            streak=torch.zeros_like(evals),
            anchor=z,
            code=torch.where(lost, Status.RANK_LOSS, code).to(torch.int8),
            evals=evals + counter.count,
            time=lam,
        )

    def advance(self, family: Family, state: ArcState) -> tuple[ArcState, Tensor]:
        """Return the state after one step along each curve, and which samples moved, bool (B,).

        A sample whose step failed stays, with half the step; no heed is paid to lambda = 1.
        """
        assert state.evals is not None
        curve, counter = self._curve(family, state.z)
        here = Knot(state.w, state.tangent)
        last = Knot(state.last_w, state.last_tangent)
        guess = self.predictor(last, here, state.gap, state.ds) - state.w
        found = run(curve.slice(state.w, state.tangent, state.ds), self._corrector(state.z), guess)
        moved, w = found.value, state.w + found.value
        length = norm(moved)
        # The step along the tangent is ds exactly, so ds / length is the cosine of the turn.
        straight = math.cos(self.control.turn)
        ok = found.converged & (state.ds >= straight * length)
        tangent, faint, products = self._tangent(curve, counter, ok, w, moved)
        ok &= ~faint & (dot(tangent, state.tangent) >= straight)
        z, lam = curve.split(w)
        size = norm(w).clamp_min(1)
        ds, streak = self.control.next(state.ds, ok, found.steps, state.streak, size)
        lost = ok & ((norm(z) > self._reach(state)) | (lam.abs() > self.bound))
        small = ~ok & (ds < self.control.smallest(z.dtype))
        code = torch.where(small, Status.STEP_TOO_SMALL, state.code)
        if bool(small.any()):
            rank = faint | curve.singular(state.w, state.tangent, krylov=self.krylov)
            code = torch.where(small & rank, Status.RANK_LOSS, code)
        code = torch.where(lost, Status.LOST_PATH, code).to(torch.int8)
        new = replace(
            state,
            z=z,
            w=w,
            tangent=tangent,
            last_w=state.w,
            last_tangent=state.tangent,
            gap=length,
            time=lam,
        )
        return replace(
            select(ok, new, state),
            ds=ds,
            streak=streak,
            code=code,
            evals=state.evals + found.evals + products,
        ), ok

    def status(self, state: ArcState) -> Tensor | None:
        return state.code

    def _curve(self, family: Family, z: Tensor) -> tuple[Curve, Counter]:
        """Return the samples' curves, and the counter of their evaluations."""
        counter = Counter(family.map)
        return Curve(Family(counter, family.condition), z.shape[1:], self.theta), counter

    def _halved(self, state: ArcState) -> ArcState:
        """Return the state with half the step."""
        ds = 0.5 * state.ds
        small = ds < self.control.smallest(ds.dtype)
        code = torch.where(small, Status.STEP_TOO_SMALL, state.code).to(torch.int8)
        return replace(state, ds=ds, streak=torch.zeros_like(state.streak), code=code)

    def _tangent(
        self, curve: Curve, counter: Counter, ok: Tensor, w: Tensor, moved: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the tangents of the samples `ok` at w, which have none, and the products used."""
        faint = torch.zeros_like(ok)
        products = torch.zeros_like(ok, dtype=torch.int64)
        secant = moved / expand(norm(moved).clamp_min(TINY), moved)
        if not self.predictor.tangents or not bool(ok.any()):
            return secant, faint, products
        before = counter.count
        krylov = 0 if len(w[0]) - 1 <= self.dense else self.krylov
        if curve.family.condition is None:
            tangent, miss = curve.tangent(w, secant, rtol=0.1, krylov=krylov)
            faint = ~(miss < RANK)
        else:
            index = ok.nonzero().squeeze(1)
            some, miss = curve.rows(index).tangent(w[index], secant[index], rtol=0.1, krylov=krylov)
            tangent = scatter(some, index, secant)
            faint = scatter(~(miss < RANK), index, faint)
        return tangent, faint & ok, products + torch.where(ok, counter.count - before, 0)

    def _space(self, z: Tensor) -> int:
        """Return the dimension of the Krylov spaces for states like z, 0 for dense Jacobians."""
        return 0 if z[0].numel() <= self.dense else self.krylov

    def _corrector(self, z: Tensor) -> Solver[Equilibrium, Any]:
        if self.corrector is not None:
            return self.corrector
        if self._space(z) == 0:
            return NewtonDirect(rtol=CORRECTION, max_steps=4)
        return NewtonKrylov(rtol=CORRECTION, max_steps=4, halvings=0, krylov=self.krylov)

    def _polisher(self) -> Solver[Equilibrium, Any]:
        return NewtonKrylov(rtol=self.rtol, atol=self.atol, max_steps=15, krylov=self.krylov)

    def _reach(self, state: ArcState) -> Tensor:
        """Return the norm of z beyond which a path is lost, (B,)."""
        start = norm(state.anchor) / state.anchor[0].numel() ** 0.5
        farthest: Tensor = self.bound * (1 + start) * state.z[0].numel() ** 0.5
        return farthest


def select(chosen: Tensor, yes: ArcState, no: ArcState) -> ArcState:
    """Return the rows `chosen`, bool (B,), of one state and the other rows of another."""
    merged = {}
    for each in fields(yes):
        a, b = getattr(yes, each.name), getattr(no, each.name)
        if a is not b and isinstance(a, Tensor):
            merged[each.name] = torch.where(expand(chosen, a), a, b)
    return replace(no, **merged)
