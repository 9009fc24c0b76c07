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
from ..solution import Solution
from ..solver import Solver, State, start
from ..status import Status
from .maps import FixedPoint, Homotopy


@dataclass(frozen=True)
class PathState(State):
    """Where each sample stands on its path; z is its root at lambda = `time`.

    Arguments:
        ds: the next step in lambda, (B,).
        slope: dz/dlambda by the last secant, (B, ...).
        anchor: what the homotopy keeps of the start, (B, ...).
        code: each sample's `Status`, int8 (B,).
    """

    ds: Tensor
    slope: Tensor
    anchor: Tensor
    code: Tensor


@dataclass(frozen=True)
class Continuation(Solver[Equilibrium, PathState]):
    """Follow the root of z = h(z, lambda) from lambda = 0 to 1 in steps of lambda.

    Every sample has its own lambda and step. A step predicts along the secant and corrects at
    fixed lambda; it doubles where the corrector had it easy and halves where it failed. At
    lambda = 1 the root is polished to the tolerance. Folds stop it: STEP_TOO_SMALL.

    Arguments:
        homotopy: the family of equations; its start is z0.
        corrector: solver at fixed lambda; its tolerance is used for lambda < 1, this solver's
            own at lambda = 1.
        ds: first step in lambda.
        min_ds: smallest step; below it a sample ends STEP_TOO_SMALL.
        easy: corrector steps up to which the next step doubles.

    References:
        E. Allgower, K. Georg (1990), Numerical continuation methods.
    """

    max_steps: int = 200
    homotopy: Homotopy = FixedPoint()
    corrector: Solver[Equilibrium, Any] = field(
        default_factory=lambda: NewtonKrylov(rtol=1e-3, max_steps=5, halvings=0)
    )
    ds: float = 0.25
    min_ds: float = 1e-4
    easy: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.min_ds <= self.ds <= 1:
            raise ValueError(
                f"Continuation needs 0 < min_ds <= ds <= 1; got {self.min_ds} and {self.ds}."
            )

    @property
    def compacts_below(self) -> float:
        return 1.0  # a step is a nonlinear solve

    def init(self, problem: Equilibrium, z0: Tensor) -> PathState:
        first = start(problem, z0)
        zeros = torch.zeros_like(first.residual)
        return PathState(
            z0,
            first.fz,
            first.residual,
            ds=torch.full_like(zeros, self.ds),
            slope=torch.zeros_like(z0),
            anchor=self.homotopy.anchor(problem, z0),
            code=(first.residual <= self.rtol).to(torch.int8),
            evals=torch.ones_like(zeros, dtype=torch.int64),
            time=zeros,
        )

    def step(self, problem: Equilibrium, state: PathState) -> PathState:
        assert state.evals is not None and state.time is not None
        lam = (state.time + state.ds).clamp(max=1)
        advance = expand(lam - state.time, state.z)
        equation = self.homotopy.at(problem, lam, state.anchor)
        found = run(equation, self.corrector, state.z + advance * state.slope)
        ok = found.converged
        last = ok & (lam >= 1)
        z, evals, steps = found.value, state.evals + found.evals, found.steps
        residual = state.residual
        if bool(last.any()):
            polished = self._polish(problem, z, last)
            z = torch.where(expand(last, z), polished.value, z)
            evals = evals + torch.where(last, polished.evals, 0)
            residual = torch.where(last, polished.residual, residual)
            ok = torch.where(last, polished.converged, ok)
        moved = expand(ok, z)
        z = torch.where(moved, z, state.z)
        slope = torch.where(moved, (z - state.z) / advance, state.slope)
        grown = torch.where(steps <= self.easy, 2 * state.ds, state.ds)
        ds = torch.where(ok, grown, 0.5 * torch.minimum(state.ds, lam - state.time))
        code = torch.where(ok & last, Status.CONVERGED, state.code)
        code = torch.where(~ok & (ds < self.min_ds), Status.STEP_TOO_SMALL, code).to(torch.int8)
        return replace(
            state,
            z=z,
            residual=residual,
            ds=ds,
            slope=slope,
            code=code,
            evals=evals,
            time=torch.where(ok, lam, state.time),
        )

    def status(self, state: PathState) -> Tensor | None:
        return state.code

    def _polish(self, problem: Equilibrium, z: Tensor, last: Tensor) -> Solution[Tensor]:
        """Solve z = f(z) to this solver's own tolerance for the samples `last`."""
        polisher = replace(
            self.corrector, rtol=self.rtol, atol=self.atol, max_steps=3 * self.corrector.max_steps
        )
        if problem.condition is None:
            return run(problem, polisher, z)
        index = last.nonzero().squeeze(1)
        found = run(problem.rows(index), polisher, z[index])

        def spread(values: Tensor) -> Tensor:
            blank = values.new_zeros(last.shape[0], *values.shape[1:])
            return blank.index_copy(0, index, values)

        return Solution(
            value=spread(found.value),
            status=spread(found.status),
            steps=spread(found.steps),
            evals=spread(found.evals),
            residual=spread(found.residual),
        )
