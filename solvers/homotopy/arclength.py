"""Pseudo-arclength continuation: paths with folds."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..driver import run
from ..linear import PATH, BySize, LinearSolver, renamed
from ..newton import NewtonKrylov
from ..norms import dot, expand, norm
from ..problem import Counter, Equilibrium
from ..solution import Solution
from ..solver import Solver, judged, residual_norm, start
from ..status import Status
from .arcstate import ArcState, formed, halved, resting, select
from .arrival import CORRECTION, RANK, Arrival, Departure, by_either, by_factors, by_krylov
from .control import StepControl
from .curve import Curve, start_guide
from .endgame import finish, spread
from .family import Family
from .maps import FixedPoint, Homotopy
from .predictor import Knot, Predictor, Tangent

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
    and the bordered system is singular (a bifurcation, or `krylov` too small), LOST_PATH where
    the path runs off beyond `bound`, or where it has no start.

    Arguments:
        homotopy: the family of equations; its start is z0.
        predictor: extrapolates the path.
        corrector: solver of the bordered equation; its tolerance, relative to the step, is that
            of the path. By default Newton's method to 1e-3, or the chord method where Jacobians
            are formed; where a corrector is given none are.
        control: the length of the steps, in the metric of `Curve`.
        theta: weight of z in that metric, in (0, 1).
        krylov: dimension of the Krylov spaces at most.
        dense: Jacobians are formed for states of at most so many entries: from the start up to
            64, above for samples that failed a step, (n + 1)^2 numbers for each; 0 for none.
        bound: a path whose root mean square of z exceeds `bound` times that of z0 and f(z0), or
            whose lambda exceeds `bound`, is lost.

    References:
        H. Keller (1977), Numerical solution of bifurcation and nonlinear eigenvalue problems.
        L. Watson, S. Billups, A. Morgan (1987), HOMPACK (the endgame).
        P. Deuflhard (2004), Newton methods for nonlinear problems (the chord method).
    """

    evaluates: ClassVar[bool] = False
    max_steps: int = field(default=4000, kw_only=True)
    homotopy: Homotopy = FixedPoint()
    predictor: Predictor = Tangent()
    corrector: Solver[Equilibrium, Any] | None = None
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
        if not (0 < self.theta < 1 and self.bound > 1):
            raise ValueError(
                "ArcLength needs theta in (0, 1) and bound > 1; got "
                f"theta={self.theta}, bound={self.bound}."
            )

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
        if bool(idle.all()):
            state = resting(z0, lam, unit, self.theta, self.control.ds)
        else:
            family = self.homotopy.family(problem, anchor)
            state = self.begin(family, z0, lam, rooted=self.homotopy.rooted, unit=unit)
        assert state.evals is not None
        return replace(
            state,
            z=torch.where(expand(idle, z0), z0, state.z),
            fz=first.fz,
            residual=first.residual,
            anchor=anchor,
            first=residual_norm(first),
            code=torch.where(idle, code, state.code),
            evals=1 + torch.where(idle, 0, state.evals),
        )

    def step(self, problem: Equilibrium, state: ArcState) -> ArcState:
        assert state.time is not None and state.evals is not None
        family = self.homotopy.family(problem, state.anchor)
        new, ok = self.advance(family, state)
        assert new.time is not None and new.evals is not None
        end = ok & ((new.time >= 1) != (state.time >= 1))
        if bool(end.any()):
            answer = self._finish(problem, family, new, end)
            evals = new.evals + answer.evals
            # Where the polish fails the step was too long: the path is taken up from before it.
            smallest = self.control.smallest(new.z.dtype)
            new = select(end & ~answer.converged, halved(state, smallest), new)
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
            residual, counts = torch.where(end, new.residual, there), new.evals
            assert counts is not None
            new = replace(new, residual=residual, evals=counts + ~end)
        return new

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
            solver = replace(self._corrector(50), max_steps=50)
            root = run(family.at(lam), solver, z)
            z, evals = root.value, root.evals
            code = torch.where(root.converged, code, Status.LOST_PATH).to(torch.int8)
        unit = torch.ones_like(lam) if unit is None else unit
        state = resting(z, lam, unit, self.theta, self.control.ds)
        counter = Counter(family.map)
        curve = self._curve(replace(family, map=counter), state)
        guide = start_guide(curve, z, direction)
        if self._forms(z, PATH):
            factors, miss = curve.factored(state.w, guide)
            tangent = factors.null
            state = replace(
                state,
                formed=torch.ones_like(state.formed),
                lu=factors.lu,
                pivots=factors.pivots,
            )
        else:
            tangent, miss = curve.tangent(state.w, guide, rtol=1e-2, linear=self.linear)
        lost = (code == Status.RUNNING) & ~(miss < RANK)
        return replace(
            state,
            tangent=tangent,
            last_tangent=tangent,
            code=torch.where(lost, Status.RANK_LOSS, code).to(torch.int8),
            evals=evals + counter.count,
        )

    def advance(self, family: Family, state: ArcState) -> tuple[ArcState, Tensor]:
        """Return the state after one step along each curve, and which samples moved, bool (B,).

        A sample whose step failed stays, with half the step; no heed is paid to lambda = 1.
        """
        assert state.evals is not None
        curve = self._curve(family, state)
        found = self._arrive(curve, state)
        w, length = state.w + found.moved, norm(found.moved)
        ok = found.ok & (dot(found.tangent, state.tangent) >= math.cos(self.control.turn))
        z, lam = curve.split(w)
        size = norm(w).clamp_min(1)
        ds, streak = self.control.next(state.ds, ok, found.effort, state.streak, size)
        lost = ok & ((norm(z) > self._reach(state)) | (lam.abs() > self.bound))
        small = ~ok & (ds < self.control.smallest(z.dtype))
        code = torch.where(small, Status.STEP_TOO_SMALL, state.code)
        if bool(small.any()):
            linear = self.linear.thorough(z[0].numel() + 1)
            rank = found.faint | curve.singular(state.w, state.tangent, linear)
            code = torch.where(small & rank, Status.RANK_LOSS, code)
        code = torch.where(lost, Status.LOST_PATH, code).to(torch.int8)
        new = replace(
            state,
            z=z,
            w=w,
            tangent=found.tangent,
            last_w=state.w,
            last_tangent=state.tangent,
            gap=length,
            time=lam,
            lu=found.lu,
            pivots=found.pivots,
        )
        new = replace(
            select(ok, new, state),
            ds=ds,
            streak=streak,
            code=code,
            evals=state.evals + found.evals,
        )
        failed = ~ok & ~state.formed
        if self._forms(z) and bool(failed.any()):
            new = formed(new, family, self.theta, failed)
        return new, ok

    def status(self, state: ArcState) -> Tensor | None:
        return state.code

    def _arrive(self, curve: Curve, state: ArcState) -> Arrival:
        """Take the step of each sample in its own way."""
        here, last = Knot(state.w, state.tangent), Knot(state.last_w, state.last_tangent)
        guess = self.predictor(last, here, state.gap, state.ds) - state.w
        at = Departure(state.w, state.tangent, guess, state.ds, state.lu, state.pivots)
        straight = math.cos(self.control.turn)
        krylov = partial(
            by_krylov,
            corrector=self._corrector(4),
            straight=straight,
            linear=self.linear,
            tangents=self.predictor.tangents,
        )
        return by_either(curve, at, state.formed, partial(by_factors, straight=straight), krylov)

    def _corrector(self, steps: int) -> Solver[Equilibrium, Any]:
        if self.corrector is not None:
            return self.corrector
        return NewtonKrylov(rtol=CORRECTION, max_steps=steps, halvings=0, linear=self.linear)

    def _finish(
        self, problem: Equilibrium, family: Family, state: ArcState, end: Tensor
    ) -> Solution[Tensor]:
        """Solve z = f(z) for the samples `end`, bool (B,), whose last step crossed lambda = 1."""
        index = end.nonzero().squeeze(1)
        problem, family, state = problem.rows(index), family.rows(index), state.rows(index)
        linear = self.linear.thorough(state.z[0].numel())
        solver = NewtonKrylov(rtol=self.rtol, atol=self.atol, max_steps=15, linear=linear)
        last, here = Knot(state.last_w, state.last_tangent), Knot(state.w, state.tangent)
        curve = self._curve(family, state)
        found = finish(problem, solver, curve, last, here, state.gap, state.first, state.factors)
        return spread(found, index, len(end))

    def _curve(self, family: Family, state: ArcState) -> Curve:
        return Curve(family, state.z.shape[1:], self.theta, state.unit)

    def _forms(self, z: Tensor, limit: int | None = None) -> bool:
        """Say whether Jacobians of states like z may be formed."""
        return self.corrector is None and self.linear.forms(z[0].numel(), limit)

    def _reach(self, state: ArcState) -> Tensor:
        """Return the norm of z beyond which a path is lost, (B,)."""
        start = norm(state.anchor) / state.anchor[0].numel() ** 0.5
        farthest: Tensor = self.bound * (state.unit + start) * state.z[0].numel() ** 0.5
        return farthest
