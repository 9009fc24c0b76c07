"""Natural-parameter continuation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..jacobian import Linearization
from ..linear import gmres
from ..newton import NewtonKrylov
from ..norms import expand
from ..problem import Counter, Equilibrium
from ..solver import Solver, Tracked, judged, residual_norm, start
from ..status import Status
from .control import StepControl
from .endgame import polish
from .family import Family
from .maps import FixedPoint, Homotopy
from .predictor import Knot, Predictor, Secant

TANGENT_RTOL = 1e-2  # linear tolerance of dz/dlambda: a predictor needs no more


@dataclass(frozen=True)
class PathState(Tracked):
    """Where each sample stands on its path; z is its root at lambda = `time`.

    Arguments:
        slope: dz/dlambda at z, (B, ...).
        last_z: the root at the point before, (B, ...).
        last_slope: dz/dlambda there, (B, ...).
        gap: lambda between the two, (B,); 0 at the start.
        ds: the next step in lambda, (B,).
        streak: easy steps in a row, int64 (B,).
        anchor: what the homotopy keeps of the start, (B, ...).
        first: ||f(z) - z|| at the start, (B,).
    """

    slope: Tensor
    last_z: Tensor
    last_slope: Tensor
    gap: Tensor
    ds: Tensor
    streak: Tensor
    anchor: Tensor
    first: Tensor


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
        z, residual = z0, first.residual
        family, counter = self._family(problem, anchor)
        if not self.homotopy.rooted:
            root = run(family.at(lam), self.corrector, z0)
            lost = (code == Status.RUNNING) & ~root.converged
            code = torch.where(lost, Status.LOST_PATH, code).to(torch.int8)
            z = torch.where(expand(code == Status.CONVERGED, z0), z0, root.value)
            evals = evals + root.evals
            counter.count = 0
        slope = self._slope(family, z, lam) if self.predictor.tangents else torch.zeros_like(z)
        return PathState(
            z,
            residual,
            slope=slope,
            last_z=z,
            last_slope=slope,
            gap=torch.zeros_like(lam),
            ds=torch.full_like(lam, self.control.ds),
            streak=torch.zeros_like(evals),
            anchor=anchor,
            first=residual_norm(first),
            status=code,
            evals=evals + counter.count,
            time=lam,
        )

    def step(self, problem: Equilibrium, state: PathState) -> PathState:
        lam = (state.time + state.ds).clamp(max=1)
        advance = lam - state.time
        family, counter = self._family(problem, state.anchor)
        guess = self.predictor(
            Knot(state.last_z, state.last_slope), Knot(state.z, state.slope), state.gap, advance
        )
        # Where the root itself may be loose, as under autocast, so may the path to it be.
        corrector = replace(self.corrector, rtol=max(self.corrector.rtol, self.rtol))
        found = run(family.at(lam), corrector, guess)
        ok = found.converged
        last = ok & (lam >= 1)
        z, evals = found.value, state.evals + found.evals
        residual = state.residual
        if bool(last.any()):
            solver = replace(
                self.corrector,
                rtol=self.rtol,
                atol=self.atol,
                max_steps=3 * self.corrector.max_steps,
            )
            answer = polish(problem, solver, z, last, state.first)
            z = torch.where(expand(last, z), answer.value, z)
            evals = evals + answer.evals
            residual = torch.where(last, answer.residual.to(residual), residual)
            ok = torch.where(last, answer.converged, ok)
        moved = expand(ok, z)
        z = torch.where(moved, z, state.z)
        if self.predictor.tangents and not bool(last.all()):
            counter.count = 0
            slope = self._slope(family, z, torch.where(ok, lam, state.time))
            evals = evals + counter.count
        else:
            slope = (z - state.z) / expand(advance, z)
        ds, streak = self.control.next(
            torch.where(ok, state.ds, torch.minimum(state.ds, advance)),
            ok,
            found.steps,
            state.streak,
        )
        small = ~ok & (ds < self.control.smallest(z.dtype))
        code = torch.where(ok & last, Status.CONVERGED, state.status)
        code = torch.where(small, Status.STEP_TOO_SMALL, code).to(torch.int8)
        underway = ~(ok & last)  # at a root of h, not of f: a failure reports the residual of f
        if bool(underway.any()):
            residual = torch.where(underway, start(problem, z).residual, residual)
            evals = evals + underway
        return replace(
            state,
            z=z,
            residual=residual,
            slope=torch.where(moved, slope, state.slope),
            last_z=torch.where(moved, state.z, state.last_z),
            last_slope=torch.where(moved, state.slope, state.last_slope),
            gap=torch.where(ok, advance, state.gap),
            ds=ds,
            streak=streak,
            status=code,
            evals=evals,
            time=torch.where(ok, lam, state.time),
        )

    def _family(self, problem: Equilibrium, anchor: Tensor) -> tuple[Family, Counter]:
        """Return the family of the samples, and the counter of its evaluations."""
        family = self.homotopy.family(problem, anchor)
        counter = Counter(family.map)
        return Family(counter, family.condition), counter

    def _slope(self, family: Family, z: Tensor, lam: Tensor) -> Tensor:
        return slope(family, z, lam, rtol=TANGENT_RTOL, krylov=40)


def slope(family: Family, z: Tensor, lam: Tensor, *, rtol: float, krylov: int) -> Tensor:
    """Return dz/dlambda = (I - h_z)^-1 h_lambda at a root (Davidenko)."""
    n = z[0].numel()

    def joint(y: Tensor) -> Tensor:
        return family(y[:, :n].reshape_as(z), y[:, n]).flatten(1)

    y = torch.cat((z.flatten(1), lam[:, None].to(z.dtype)), dim=1)
    push = Linearization(joint, y, family.map)
    zero = torch.zeros_like(lam[:, None], dtype=z.dtype)

    def operator(v: Tensor) -> Tensor:
        return v - push(torch.cat((v, zero), dim=1))

    rate = push(torch.cat((torch.zeros_like(z).flatten(1), zero + 1), dim=1))
    found, _ = gmres(operator, rate, rtol=rtol, max_steps=krylov)
    return found.reshape_as(z)
