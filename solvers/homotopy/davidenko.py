"""Davidenko's equation: a path as the flow of an ordinary differential equation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..driver import run
from ..linear import GMRES
from ..newton import NewtonKrylov
from ..norms import expand, finite
from ..ode import ODE
from ..problem import Equilibrium, InitialValue
from ..solution import Solution
from ..solver import Solver, Tracked, judged, residual_norm, start
from ..status import Status
from .maps import FixedPoint, Homotopy


@dataclass(frozen=True)
class DavidenkoState(Tracked):
    """Beside z: ||f(z) - z|| at the start, (B,)."""

    first: Tensor


@dataclass(frozen=True)
class Davidenko(Solver[Equilibrium, DavidenkoState]):
    """Integrate dz/dlambda = (I - h_z)^-1 h_lambda from lambda = 0 to 1, and polish z(1).

    One Euler step of length 1 along the fixed-point homotopy is a Picard step. Nothing corrects
    z on the way; folds end it. The steps are torchdiffeq's, chosen for the whole batch. A sample
    ends with the integrator's status where that gave up, and LOST_PATH where Newton's method
    finds no root from z(1).

    Arguments:
        max_steps: 1, the whole way.
        homotopy: the family of equations; its start is z0, a root at lambda = 0.
        method: of torchdiffeq: rk4, dopri5, euler, ...
        step_size: step in lambda of the methods without error control.
        error: local error, relative and absolute, of the methods with error control.
        linear: tolerance of the linear solves.
        krylov: dimension of the Krylov space at most.

    References:
        D. Davidenko (1953), On a new method of numerical solution of systems of equations.
    """

    max_steps: int = field(default=1, kw_only=True)
    homotopy: Homotopy = FixedPoint()
    method: str = "rk4"
    step_size: float = 0.125
    error: float = 1e-3
    linear: float = 1e-3
    krylov: int = 60

    @property
    def compacts_below(self) -> float:
        return 1.0  # a step is the whole way

    def init(self, problem: Equilibrium, z0: Tensor) -> DavidenkoState:
        first = start(problem, z0)
        code = judged(self, first)
        evals = torch.ones_like(code, dtype=torch.int64)
        time = torch.zeros_like(first.residual)
        size = residual_norm(first)
        return DavidenkoState(z0, first.residual, size, status=code, evals=evals, time=time)

    def step(self, problem: Equilibrium, state: DavidenkoState) -> DavidenkoState:
        end = self.flow(problem, state.z)
        polisher = NewtonKrylov(
            rtol=self.rtol, atol=self.atol, max_steps=15, linear=GMRES(self.krylov)
        )
        answer = run(problem, polisher, end, first=state.first)
        lost = torch.where(end.converged, Status.LOST_PATH, end.status)
        return replace(
            state,
            z=answer.value,
            residual=answer.residual.to(state.residual),
            status=torch.where(answer.converged, answer.status, lost).to(torch.int8),
            evals=state.evals + end.evals + answer.evals,
            time=torch.ones_like(state.time),
        )

    def flow(self, problem: Equilibrium, z0: Tensor) -> Solution[Tensor]:
        """Return the flow's z(1), without the polish; `evals` counts Jacobian products too."""
        evals = 0
        anchor = self.homotopy.anchor(problem, z0)

        def field(t: Tensor, z: Tensor, anchor: Tensor, *x: Tensor) -> Tensor:
            nonlocal evals
            family = self.homotopy.family(replace(problem, condition=x), anchor)
            rate, cost = family.slope(z, t.expand(len(z)), rtol=self.linear, krylov=self.krylov)
            evals += cost
            return rate

        flow = InitialValue(field, condition=(anchor, *problem.inputs))
        settings = ODE(
            rtol=self.error, atol=self.error, method=self.method, step_size=self.step_size
        )
        end = run(flow, settings, z0)
        value = torch.where(expand(finite(end.value), z0), end.value, z0)
        return replace(end, value=value, evals=torch.full_like(end.evals, evals))
