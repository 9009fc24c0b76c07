"""Pseudo-arclength continuation: paths with folds."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..linear import PATH, BySize, LinearSolver, renamed
from ..newton import NewtonKrylov
from ..norms import dot, expand, norm
from ..problem import Equilibrium
from ..rows import scatter
from ..solver import Solver, judged, named, residual_norm, start
from ..status import Status
from .arcstep import RANK, ArcState, Arrival, Chord, arrive, joined, resting, select
from .control import StepControl
from .curve import Curve
from .endgame import finish, spread
from .family import Family
from .maps import FixedPoint, Homotopy
from .predictor import Predictor, Tangent

CORRECTION = 1e-3  # of a step's length; at 1e-2 one draw in twenty of the tanh suite is lost
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
        lam = torch.zeros_like(first.residual).to(z0.dtype)
        state = resting(z0, lam, unit, self.theta, self.control.ds)
        if not bool(idle.all()):
            family = self.homotopy.family(problem, anchor)
            state = self.begin(family, z0, lam, rooted=self.homotopy.rooted, unit=unit)
        return replace(
            state,
            z=torch.where(expand(idle, z0), z0, state.z),
            residual=first.residual,
            anchor=anchor,
            first=residual_norm(first),
            status=torch.where(idle, code, state.status),
            evals=1 + torch.where(idle, 0, state.evals),
        )

    def step(self, problem: Equilibrium, state: ArcState) -> ArcState:
        family = self.homotopy.family(problem, state.anchor)
        new, ok = self.advance(family, state)
        end = ok & ((new.time >= 1) != (state.time >= 1))
        if bool(end.any()):
            new, end = self._finish(problem, family, state, new, end)
        if not bool(end.all()):  # the others stand elsewhere than at a root of f
            residual = torch.where(end, new.residual, start(problem, new.z).residual)
            new = replace(new, residual=residual, evals=new.evals + ~end)
        return new

    def advance(self, family: Family, state: ArcState) -> tuple[ArcState, Tensor]:
        """Return the state after one step along each curve, and which samples moved, bool (B,).

        A sample whose step failed stays, with half the step; no heed is paid to lambda = 1.
        """
        curve = self._curve(family, state)
        found = self._arrive(curve, state)
        w = state.w + found.moved
        ok = found.ok & (dot(found.tangent, state.tangent) >= math.cos(self.control.turn))
        z, lam = curve.split(w)
        size = norm(w).clamp_min(1)
        ds, streak = self.control.next(state.ds, ok, found.effort, state.streak, size)
        lost = ok & ((norm(z) > self._reach(state)) | (lam.abs() > self.bound))
        small = ~ok & (ds < self.control.smallest(z.dtype))
        code = torch.where(small, Status.STEP_TOO_SMALL, state.status)
        if bool(small.any()):
            linear = self.linear.thorough(z[0].numel() + 1)
            rank = found.faint | curve.singular(state.w, state.tangent, linear)
            code = torch.where(small & rank, Status.RANK_LOSS, code)
        code = torch.where(lost, Status.LOST_PATH, code).to(torch.int8)
        moved = replace(
            state,
            z=z,
            w=w,
            tangent=found.tangent,
            last_w=state.w,
            last_tangent=state.tangent,
            gap=norm(found.moved),
            time=lam,
            lu=found.lu,
            pivots=found.pivots,
        )
        evals = state.evals + found.evals
        new = replace(select(ok, moved, state), ds=ds, streak=streak, status=code, evals=evals)
        failed = ~ok & ~state.formed
        if self._forms(z) and bool(failed.any()):
            new = self._formed(family, new, failed)
        return new, ok

    def _arrive(self, curve: Curve, state: ArcState) -> Arrival:
        """Predict a step and correct it, each sample in its own way."""
        guess = self.predictor(state.last, state.here, state.gap, state.ds) - state.w
        straight = math.cos(self.control.turn)
        linear = self.linear if self.predictor.tangents else None
        if not (isinstance(self.corrector, Chord) and bool(state.formed.any())):
            return arrive(self._solver(4), curve, state, guess, straight, linear)
        if bool(state.formed.all()):
            return self.corrector.arrive(curve, state, guess, straight)
        yes, no = (chosen.nonzero().squeeze(1) for chosen in (state.formed, ~state.formed))
        chords = self.corrector.arrive(curve.rows(yes), state.rows(yes), guess[yes], straight)
        rest = curve.rows(no), state.rows(no), guess[no]
        return joined(yes, chords, no, arrive(self._solver(4), *rest, straight, linear))

    def _finish(
        self, problem: Equilibrium, family: Family, state: ArcState, new: ArcState, end: Tensor
    ) -> tuple[ArcState, Tensor]:
        """Return the state with the samples `end`, whose last step crossed lambda = 1, at roots of
        f, and which they are, bool (B,). Where the polish fails the step was too long: the path is
        taken up from before it, with half of it.
        """
        index = end.nonzero().squeeze(1)
        linear = self.linear.thorough(state.z[0].numel())
        solver = NewtonKrylov(rtol=self.rtol, atol=self.atol, max_steps=15, linear=linear)
        last = new.rows(index)
        curve = self._curve(family.rows(index), last)
        answer = spread(finish(problem.rows(index), solver, curve, last), index, len(end))
        failed, end = end & ~answer.converged, end & answer.converged
        ds = 0.5 * state.ds
        small = ds < self.control.smallest(ds.dtype)
        code = torch.where(small, Status.STEP_TOO_SMALL, state.status).to(torch.int8)
        before = replace(state, ds=ds, streak=torch.zeros_like(state.streak), status=code)
        evals = new.evals + answer.evals
        new = select(failed, before, new)
        new = replace(
            new,
            z=torch.where(expand(end, new.z), answer.value, new.z),
            residual=torch.where(end, answer.residual.to(new.residual), new.residual),
            status=torch.where(end, Status.CONVERGED, new.status).to(torch.int8),
            time=torch.where(end, 1.0, new.time).to(new.z.dtype),
            evals=evals,
        )
        return new, end

    def _formed(self, family: Family, state: ArcState, chosen: Tensor) -> ArcState:
        """Return the state with the Jacobians of the samples `chosen`, bool (B,), formed."""
        index = chosen.nonzero().squeeze(1)
        curve, counter = self._curve(family, state).rows(index).counted()
        factors, _ = curve.factored(state.w[index], state.tangent[index])
        lu, pivots = state.lu, state.pivots
        if lu is None or pivots is None:  # pivots are numbered from 1 on
            lu = factors.lu.new_zeros(len(chosen), *factors.lu.shape[1:])
            pivots = factors.pivots.new_ones(len(chosen), *factors.pivots.shape[1:])
        return replace(
            state,
            tangent=scatter(factors.null, index, state.tangent),
            lu=scatter(factors.lu, index, lu),
            pivots=scatter(factors.pivots, index, pivots),
            formed=state.formed | chosen,
            evals=state.evals + torch.where(chosen, counter.count, 0),
        )

    def begin(
        self,
        family: Family,
        z: Tensor,
        lam: Tensor,
        direction: float = 1.0,
        *,
        rooted: bool,
        unit: Tensor | None = None,
    ) -> ArcState:
        """Return the state at the root of z = h(z, lam) near z, towards larger lambda first.

        Arguments:
            family: the equations, of the batch of z.
            z: the start, (B, ...).
            lam: lambda of the start, (B,).
            direction: -1 to set out towards smaller lambda.
            rooted: whether z is that root, so that it need not be found.
            unit: the length that z is measured in, (B,); by default 1.
        """
        evals = torch.zeros_like(lam, dtype=torch.int64)
        code = torch.zeros_like(lam, dtype=torch.int8)
        if not rooted:
            root = run(family.at(lam), replace(self._solver(50), max_steps=50), z)
            z, evals = root.value, root.evals
            code = torch.where(root.converged, code, Status.LOST_PATH).to(torch.int8)
        unit = torch.ones_like(lam) if unit is None else unit
        state = resting(z, lam, unit, self.theta, self.control.ds)
        curve, counter = self._curve(family, state).counted()
        guide = torch.zeros_like(state.w)
        guide[:, -1] = direction
        if self._forms(z, PATH):
            factors, miss = curve.factored(state.w, guide)
            tangent, formed = factors.null, torch.ones_like(state.formed)
            state = replace(state, formed=formed, lu=factors.lu, pivots=factors.pivots)
        else:
            tangent, miss = curve.tangent(state.w, guide, rtol=1e-2, linear=self.linear)
        lost = (code == Status.RUNNING) & ~(miss < RANK)
        return replace(
            state,
            tangent=tangent,
            last_tangent=tangent,
            status=torch.where(lost, Status.RANK_LOSS, code).to(torch.int8),
            evals=evals + counter.count,
        )

    def _solver(self, steps: int) -> Solver[Equilibrium, Any]:
        """Return the corrector where no Jacobian is formed."""
        if not isinstance(self.corrector, Chord):
            return self.corrector
        return NewtonKrylov(rtol=CORRECTION, max_steps=steps, halvings=0, linear=self.linear)

    def _curve(self, family: Family, state: ArcState) -> Curve:
        return Curve(family, state.z.shape[1:], self.theta, state.unit)

    def _forms(self, z: Tensor, limit: int | None = None) -> bool:
        """Say whether Jacobians of states like z may be formed."""
        return isinstance(self.corrector, Chord) and self.linear.forms(z[0].numel(), limit)

    def _reach(self, state: ArcState) -> Tensor:
        """Return the norm of z beyond which a path is lost, (B,)."""
        start = norm(state.anchor) / state.anchor[0].numel() ** 0.5
        farthest: Tensor = self.bound * (state.unit + start) * state.z[0].numel() ** 0.5
        return farthest
