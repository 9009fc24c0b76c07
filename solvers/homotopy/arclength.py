"""Pseudo-arclength continuation: paths with folds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..linear import PATH, BySize, LinearSolver, renamed
from ..newton import NewtonKrylov
from ..norms import divisor, dot, expand, norm
from ..problem import Equilibrium
from ..solver import Solver, judged, named, residual_norm, start
from ..status import Status
from .control import StepControl
from .curve import Curve, Family
from .maps import FixedPoint, Homotopy
from .path import ArcState, Chord, resting, rounding
from .predictor import Predictor, Tangent

CORRECTION = 1e-3  # of a step's length; at 1e-2 one draw in twenty of the tanh suite is lost
NEAR = 1e-2  # of a step's length: what Newton's method may still correct where chords arrived
RANK = 0.1  # a tangent t with ||G' t|| above it is none: G' has lost rank, or GMRES its way
SHARE = 0.5  # of the tolerance: what chords may leave, as they foresee it
CHORDS = 15  # corrections to the root itself, each half the one before or less
UNIT = 2.0  # times the longer of z0 and f(z0): about the length of a root far from both


@dataclass(frozen=True)
class ArcLength(Solver[Equilibrium, ArcState]):
    """Follow the root of z = h(z, lambda) by arclength from lambda = 0 until it crosses 1.

        G(w) = 0,   <tangent, w - w_last> = ds,   w = (z, lambda) scaled, see `Curve`.

    lambda is an unknown like z: the path may turn back at folds and leave [0, 1]. Every sample
    has its own step. Points are corrected loosely; where lambda crosses 1 the path is
    interpolated and the root polished to the tolerance, so that a CONVERGED sample's residual is
    that of f. z is measured in the length of z0 or f(z0), whichever is longer, so that scaling
    the problem changes nothing.

    Small states are followed with Jacobians that are formed and factored, once a step; large ones
    in Krylov spaces, until a step of a sample fails: hard paths need many products a step.

    A sample ends STEP_TOO_SMALL where steps below the smallest fail, RANK_LOSS where they fail
    and the bordered system is singular (a bifurcation, or Krylov spaces too small), LOST_PATH where
    the path runs off beyond `bound`, or where it has no start.

    Arguments:
        homotopy: the family of equations; its start is z0.
        predictor: extrapolates the path.
        corrector: the chord method where Jacobians are formed, with Newton's to 1e-3 where none
            are; or a solver of the bordered equation, for which none are formed, and whose
            tolerance, relative to the step, is that of the path.
        control: the length of the steps, in the metric of `Curve`.
        theta: weight of z in that metric, in (0, 1).
        linear: solver of the linear systems, which says where Jacobians are formed: `GMRES(100)`
            forms none, `Dense()` all, `BySize()` those of states of up to 64 entries, and up to
            1024 those of samples that failed a step, (n + 1)^2 numbers for each.
        bound: a path whose root mean square of z exceeds `bound` times that of z0 and f(z0), or
            whose lambda exceeds `bound`, is lost.

    References:
        H. Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems.
        L. Watson, S. Billups, A. Morgan (1987), HOMPACK (the endgame).
    """

    max_steps: int = field(default=4000, kw_only=True)
    homotopy: Homotopy = FixedPoint()
    predictor: Predictor = Tangent()
    corrector: Solver[Equilibrium, Any] | Chord = Chord()
    control: StepControl = StepControl()
    theta: float = 0.5
    linear: LinearSolver = BySize()
    bound: float = 1e4
    krylov: InitVar[int | None] = None  # the old names of linear=BySize(krylov, dense)
    dense: InitVar[int | None] = None

    def __post_init__(self, krylov: int | None, dense: int | None) -> None:
        super().__post_init__()
        old = {"krylov": krylov, "dense": dense}
        object.__setattr__(self, "linear", renamed(self.linear, old))
        corrector: object = self.corrector
        if not isinstance(corrector, (Chord, Solver)):
            got = named(corrector)
            raise TypeError(f"corrector must be Chord() or a solver of an Equilibrium; got {got}.")
        if not (0 < self.theta < 1 and self.bound > 1):
            got = f"theta={self.theta}, bound={self.bound}"
            raise ValueError(f"ArcLength needs theta in (0, 1) and bound > 1; got {got}.")

    @property
    def compacts_below(self) -> float:
        return 1.0  # a step is a nonlinear solve

    def init(self, problem: Equilibrium, z0: Tensor) -> ArcState:
        first = start(problem, z0)
        code = judged(self, first)
        idle = code != Status.RUNNING
        unit = UNIT * torch.maximum(norm(z0), norm(first.fz)) / z0[0].numel() ** 0.5
        unit = torch.where((unit > 0) & torch.isfinite(unit), unit, 1).to(z0.dtype)
        anchor = self.homotopy.anchor(problem, z0)
        family = self.homotopy.family(problem, anchor)
        curve = Curve(family, z0.shape[1:], self.theta, unit)
        state = resting(curve, z0, torch.zeros_like(unit), self.control.ds)
        if not bool(idle.all()):
            state = self.begin(family, state, rooted=self.homotopy.rooted)
        return replace(
            state,
            z=torch.where(expand(idle, z0), z0, state.z),
            residual=first.residual,
            anchor=anchor,
            first=residual_norm(first),
            status=torch.where(idle, code, state.status),
            evals=1 + torch.where(idle, 0, state.evals),
        )

    def begin(
        self, family: Family, state: ArcState, direction: float = 1.0, *, rooted: bool
    ) -> ArcState:
        """Return the state at the root of z = h(z, lam) near z, towards larger lambda first.

        Arguments:
            family: the equations, of the batch of z.
            state: at rest near the root.
            direction: -1 to set out towards smaller lambda.
            rooted: whether z is that root, so that it need not be found.
        """
        curve = self.curve(family, state)
        if not rooted:
            root = run(family.at(state.time), replace(self._solver(50), max_steps=50), state.z)
            code = torch.where(root.converged, state.status, Status.LOST_PATH).to(torch.int8)
            w = curve.join(root.value, state.time)
            state = replace(state, z=root.value, y=w, last_y=w, status=code, evals=root.evals)
        guide = torch.zeros_like(state.y)
        guide[:, -1] = direction
        state = self._turned(
            curve, replace(state, slope=guide), 1e-2, form=self._forms(state, PATH)
        )
        lost = (state.status == Status.RUNNING) & state.faint
        code = torch.where(lost, Status.RANK_LOSS, state.status).to(torch.int8)
        return replace(state, last_slope=state.slope, status=code)

    def step(self, problem: Equilibrium, state: ArcState) -> ArcState:
        family = self.homotopy.family(problem, state.anchor)
        new = self._moved(family, state)
        end = new.moved & ((new.time >= 1) != (state.time >= 1))
        if bool(end.any()):
            index = end.nonzero().squeeze(1)
            part = self._finished(problem.rows(index), family.rows(index), new.rows(index))
            new = new.put(index, part)
            end = end & new.moved
        new = self._paced(family, state, new)
        new = replace(new, status=torch.where(end, Status.CONVERGED, new.status).to(torch.int8))
        if not bool(end.all()):  # the others stand elsewhere than at a root of f
            residual = torch.where(end, new.residual, start(problem, new.z).residual)
            new = replace(new, residual=residual, evals=new.evals + ~end)
        return new

    def advance(
        self, family: Family, state: ArcState, passes: Callable[[ArcState], Tensor] | None = None
    ) -> ArcState:
        """Return the state after one step along each curve; no heed is paid to lambda = 1.

        A sample whose step failed, or does not pass what is said of the state after it, stays,
        with half the step, and has not `moved`.
        """
        new = self._moved(family, state)
        if passes is not None:
            new = replace(new, moved=new.moved & passes(new))
        return self._paced(family, state, new)

    def _moved(self, family: Family, state: ArcState) -> ArcState:
        """Return where a step leads, and whether it may be taken."""
        chords = bool(state.formed.any())
        if chords and not bool(state.formed.all()):
            new = state
            for mask in (state.formed, ~state.formed):
                index = mask.nonzero().squeeze(1)
                new = new.put(index, self._moved(family.rows(index), state.rows(index)))
            return new
        curve, piece = self.curve(family, state), state.piece
        straight = math.cos(self.control.turn)
        guess = self.predictor(piece.last, piece.here, state.gap, state.ds) - state.y
        if chords and isinstance(self.corrector, Chord):
            d, ok, effort = self.corrector.correct(curve, state, guess)
            evals = effort
        else:
            found = run(curve.slice(state.y, state.slope, state.ds), self._solver(4), guess)
            d, ok, effort, evals = found.value, found.converged, found.steps, found.evals
        # The step along the tangent is ds exactly, so ds / length is the cosine of the turn.
        length = norm(d)
        new = replace(
            state,
            y=state.y + d,
            slope=d / divisor(length)[:, None],
            last_y=state.y,
            last_slope=state.slope,
            gap=length,
            moved=ok & (state.ds >= straight * length),
            effort=effort,
            faint=torch.zeros_like(ok),
            evals=state.evals + evals,
        )
        if chords or self.predictor.tangents:
            index = new.moved.nonzero().squeeze(1)
            if len(index) == len(d):
                new = self._settled(curve, new)
            elif len(index):
                new = new.put(index, self._settled(curve.rows(index), new.rows(index)))
        z, lam = curve.split(new.y)
        moved = new.moved & (dot(new.slope, state.slope) >= straight)
        return replace(new, z=z, time=lam, moved=moved)

    def _settled(self, curve: Curve, state: ArcState) -> ArcState:
        """Return samples that arrived with tangents, those by chords with Jacobians."""
        chords = bool(state.formed.any())
        state = self._turned(curve, state, 0.1, form=chords)
        factors = state.factors
        if not chords or factors is None:
            return replace(state, moved=~state.faint)
        # Near a singular point chords may stall unseen, and the path be lost from where they did.
        gap = curve.gap(state.y)
        change = factors.solve(gap, torch.zeros_like(state.ds), state.slope)
        near = norm(change) <= NEAR * state.gap
        w = torch.where(near[:, None], state.y - change, state.y)
        fine = near | (norm(gap) <= rounding(w))
        length, evals = norm(w - state.last_y), state.evals + 1
        return replace(state, y=w, gap=length, moved=fine & ~state.faint, evals=evals)

    def _turned(self, curve: Curve, state: ArcState, rtol: float, *, form: bool) -> ArcState:
        """Return the state with the tangent near its slope; with Jacobians if they are formed."""
        if form:
            factors, miss = curve.factored(state.y, state.slope)
            formed, tangent = torch.ones_like(state.formed), factors.null
            state = replace(state, formed=formed, lu=factors.lu, pivots=factors.pivots)
            evals = state.y.shape[1]  # G, and a product for each of its n entries
        else:
            curve, counter = curve.counted()
            tangent, miss = curve.tangent(state.y, state.slope, rtol=rtol, linear=self.linear)
            evals = counter.count
        return replace(state, slope=tangent, faint=~(miss < RANK), evals=state.evals + evals)

    def _finished(self, problem: Equilibrium, family: Family, state: ArcState) -> ArcState:
        """Return samples whose last step crossed lambda = 1 at roots of f.

        Chords lead there where Jacobians are formed; Newton's method sees whether more is needed.
        Where it fails the step was too long, and has not `moved` the sample.
        """
        curve, evals = self.curve(family, state), state.evals
        a, b = curve.scales
        w = state.piece.crossing(b)
        if bool(state.formed.any()) and isinstance(self.corrector, Chord):
            level = torch.zeros_like(w)
            level[:, -1] = 1
            error = SHARE * (self.rtol * norm(w[:, :-1]) + self.atol * a.squeeze(1))
            patient = replace(self.corrector, max_steps=CHORDS)
            plane = level, b - state.y[:, -1]
            d, ok, effort = patient.correct(curve, state, w - state.y, plane, error)
            w, evals = torch.where(ok[:, None], state.y + d, w), evals + effort
        linear = self.linear.thorough(state.z[0].numel())
        newton = NewtonKrylov(rtol=self.rtol, atol=self.atol, max_steps=15, linear=linear)
        found = run(problem, newton, curve.split(w)[0], first=state.first)
        return replace(
            state,
            z=found.value,
            residual=found.residual.to(state.residual),
            time=torch.ones_like(state.time),
            moved=found.converged,
            evals=evals + found.evals,
        )

    def _paced(self, family: Family, state: ArcState, new: ArcState) -> ArcState:
        """Return the new state where a step moved the sample, else the old, with the next step."""
        ok, rms = new.moved, state.z[0].numel() ** 0.5
        farthest = self.bound * (state.unit * rms + norm(state.anchor))
        lost = ok & ((norm(new.z) > farthest) | (new.time.abs() > self.bound))
        size = norm(new.y).clamp_min(1)
        ds, streak, small = self.control.next(state.ds, ok, new.effort, state.streak, size)
        code = torch.where(small, Status.STEP_TOO_SMALL, state.status)
        if bool(small.any()):
            curve, linear = self.curve(family, state), self.linear.thorough(state.y.shape[1])
            rank = new.faint | curve.singular(state.y, state.slope, linear)
            code = torch.where(small & rank, Status.RANK_LOSS, code)
        code = torch.where(lost, Status.LOST_PATH, code).to(torch.int8)
        there = new.where(ok, state)
        new = replace(there, ds=ds, streak=streak, moved=ok, status=code, evals=new.evals)
        failed = ~ok & ~state.formed
        if bool(failed.any()) and self._forms(state):
            index = failed.nonzero().squeeze(1)
            part = new.rows(index)
            curve = self.curve(family.rows(index), part)
            new = new.put(index, self._turned(curve, part, 0.1, form=True))
        return new

    def _solver(self, steps: int) -> Solver[Equilibrium, Any]:
        """Return the corrector where no Jacobian is formed."""
        if not isinstance(self.corrector, Chord):
            return self.corrector
        return NewtonKrylov(rtol=CORRECTION, max_steps=steps, halvings=0, linear=self.linear)

    def curve(self, family: Family, state: ArcState) -> Curve:
        """Return the curves that samples are on."""
        return Curve(family, state.z.shape[1:], self.theta, state.unit)

    def _forms(self, state: ArcState, limit: int | None = None) -> bool:
        """Say whether Jacobians of such states may be formed."""
        return isinstance(self.corrector, Chord) and self.linear.forms(state.z[0].numel(), limit)
