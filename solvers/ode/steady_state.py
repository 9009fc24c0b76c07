"""The flow z' = f(z) - z, followed to rest."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..norms import TINY, expand, norm, relative
from ..problem import Equilibrium
from ..solver import Solver, State, start

SAFETY = 0.9  # Hairer, Norsett & Wanner I, II.4


@dataclass(frozen=True)
class FlowState(State):
    """Beside z and f(z): each sample's next step in t, (B,)."""

    h: Tensor


@dataclass(frozen=True)
class SteadyState(Solver[Equilibrium, FlowState]):
    """Integrate z' = f(z) - z from z0 until it rests: the root that the dynamics select.

    Bogacki and Shampine's third-order pair, three evaluations a step, with a step size per
    sample. The local error is held below `error` of the step's own length, not of the state, and
    the step below `max_step`: so the flow neither stalls at the integrator's tolerance nor leaves
    its stability region, which holds the disk of radius 1 about -1.

    Arguments:
        error: local error of a step at most, relative to the length of the step.
        max_step: largest step in t; 1 is stable wherever the Jacobian of f has norm below 1.
        h: first step in t.

    References:
        P. Bogacki, L. Shampine (1989), A 3(2) pair of Runge-Kutta formulas.
    """

    max_steps: int = field(default=1000, kw_only=True)
    error: float = 0.1
    max_step: float = 1.0
    h: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.error > 0 and 0 < self.h <= self.max_step):
            raise ValueError(
                "SteadyState needs error > 0 and 0 < h <= max_step; got "
                f"error={self.error}, h={self.h}, max_step={self.max_step}."
            )

    def init(self, problem: Equilibrium, z0: Tensor) -> FlowState:
        first = start(problem, z0)
        h = torch.full_like(first.residual, self.h)
        return FlowState(first.z, first.fz, first.residual, h, time=torch.zeros_like(h))

    def step(self, problem: Equilibrium, state: FlowState) -> FlowState:
        assert state.time is not None
        z, h = state.z, expand(state.h, state.z)
        k1 = state.fz - z
        k2 = problem.residual(z + h / 2 * k1)
        k3 = problem.residual(z + 3 * h / 4 * k2)
        end = z + h * (2 / 9 * k1 + 1 / 3 * k2 + 4 / 9 * k3)
        fend = problem(end)
        k4 = fend - end
        with torch.no_grad():
            miss = state.h * norm(-5 / 72 * k1 + 1 / 12 * k2 + 1 / 9 * k3 - 1 / 8 * k4)
            ratio = miss / (self.error * norm(end - z)).clamp_min(TINY)
            ratio = ratio.nan_to_num(nan=float("inf"))
            accepted = ratio <= 1
            # The error is of third order and the step of first, so their ratio is of second.
            factor = (SAFETY * ratio.clamp_min(TINY).rsqrt()).clamp(0.2, 3.0)
            new_h = (state.h * factor).clamp(max=self.max_step)
        take = expand(accepted, z)
        return FlowState(
            torch.where(take, end, z),
            torch.where(take, fend, state.fz),
            torch.where(accepted, relative(k4, fend), state.residual),
            new_h,
            time=torch.where(accepted, state.time + state.h, state.time),
        )
