"""Natural-parameter continuation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..newton import NewtonKrylov
from ..norms import expand
from ..problem import Equilibrium
from ..rows import scatter
from ..solver import Solver, judged, residual_norm, start
from ..status import Status
from .control import StepControl
from .maps import FixedPoint, Homotopy
from .path import PathState
from .predictor import Predictor, Secant

TANGENT_RTOL = 1e-2  # linear tolerance of dz/dlambda: a predictor needs no more
KRYLOV = 40  # products for it at most


@dataclass(frozen=True)
class Continuation(Solver[Equilibrium, PathState]):
    """Follow the root of z = h(z, lambda) from lambda = 0 to 1 in steps of lambda.

    Every sample has its own lambda and step. A step predicts and corrects at fixed lambda; it
    doubles where the corrector had it easy and halves where it failed. At lambda = 1 the root is
    polished to the tolerance. Folds stop it, STEP_TOO_SMALL: `ArcLength` passes them. A sample
    without a root at lambda = 0 ends LOST_PATH.

    Arguments:
        homotopy: the family of equations; its start is z0.
        predictor: extrapolates the path.
        corrector: solver at fixed lambda; its tolerance is used for lambda < 1, this solver's
            own at lambda = 1.
        control: the length of the steps in lambda.

    References:
        E. Allgower, K. Georg (1990), Numerical continuation methods.
    """

    max_steps: int = field(default=200, kw_only=True)
    homotopy: Homotopy = FixedPoint()
    predictor: Predictor = Secant()
    corrector: Solver[Equilibrium, Any] = field(
        default_factory=lambda: NewtonKrylov(rtol=1e-3, max_steps=5, halvings=0)
    )
    control: StepControl = StepControl(ds=0.25, min_ds=1e-4, patience=1)

    @property
    def compacts_below(self) -> float:
        return 1.0  # a step is a nonlinear solve

    def init(self, problem: Equilibrium, z0: Tensor) -> PathState:
        first = start(problem, z0)
        lam = torch.zeros_like(first.residual)
        evals = torch.ones_like(lam, dtype=torch.int64)
        anchor = self.homotopy.anchor(problem, z0)
        code = judged(self, first)
        z = z0
        family = self.homotopy.family(problem, anchor)
        if not self.homotopy.rooted:
            root = run(family.at(lam), self.corrector, z0)
            lost = (code == Status.RUNNING) & ~root.converged
            code = torch.where(lost, Status.LOST_PATH, code).to(torch.int8)
            z = torch.where(expand(code == Status.CONVERGED, z0), z0, root.value)
            evals = evals + root.evals
        slope, cost = torch.zeros_like(z), 0
        if self.predictor.tangents:
            slope, cost = family.slope(z, lam, rtol=TANGENT_RTOL, krylov=KRYLOV)
        return PathState(
            z,
            first.residual,
            y=z,
            slope=slope,
            last_y=z,
            last_slope=slope,
            gap=torch.zeros_like(lam),
            ds=torch.full_like(lam, self.control.ds),
            streak=torch.zeros_like(evals),
            anchor=anchor,
            first=residual_norm(first),
            status=code,
            evals=evals + cost,
            time=lam,
        )

    def step(self, problem: Equilibrium, state: PathState) -> PathState:
        lam = (state.time + state.ds).clamp(max=1)
        advance = lam - state.time
        family, piece = self.homotopy.family(problem, state.anchor), state.piece
        guess = self.predictor(piece.last, piece.here, state.gap, advance)
        # Where the root itself may be loose, as under autocast, so may the path to it be.
        found = run(family.at(lam), self.corrector.loosened(self.rtol), guess)
        z, ok, residual = found.value, found.converged, state.residual
        evals, end = state.evals + found.evals, ok & (lam >= 1)
        if bool(end.any()):
            steps, index = 3 * self.corrector.max_steps, end.nonzero().squeeze(1)
            solver = replace(self.corrector, rtol=self.rtol, atol=self.atol, max_steps=steps)
            answer = run(problem.rows(index), solver, z[index], first=state.first[index])
            z = scatter(answer.value, index, z)
            residual = scatter(answer.residual.to(residual), index, residual)
            ok = scatter(answer.converged, index, ok)
            evals = evals.index_add(0, index, answer.evals)
        there = replace(state, z=z, y=z, last_y=state.y, last_slope=state.slope, gap=advance)
        new = replace(there, time=lam).where(ok, state)
        if self.predictor.tangents and not bool(end.all()):
            slope, cost = family.slope(new.z, new.time, rtol=TANGENT_RTOL, krylov=KRYLOV)
            evals = evals + cost
        else:
            slope = (z - state.z) / expand(advance, z)
        tried = torch.where(ok, state.ds, torch.minimum(state.ds, advance))
        ds, streak, small = self.control.next(tried, ok, found.steps, state.streak)
        end = ok & end
        code = torch.where(end, Status.CONVERGED, state.status)
        if not bool(end.all()):  # at a root of h, not of f: a failure reports the residual of f
            residual = torch.where(end, residual, start(problem, new.z).residual)
            evals = evals + ~end
        return replace(
            new,
            residual=residual,
            slope=torch.where(expand(ok, z), slope, state.slope),
            ds=ds,
            streak=streak,
            status=torch.where(small, Status.STEP_TOO_SMALL, code).to(torch.int8),
            evals=evals,
        )
