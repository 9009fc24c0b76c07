"""The flow z' = f(z) - z, followed to rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..caller import warn_deprecated
from ..norms import divisor, expand, norm, relative
from ..problem import Equilibrium
from ..solver import Evaluated, Solver, start
from .runge_kutta import LEAST, advance, missed, next_step, stuck
from .tableau import BOSH3, Tableau


@dataclass(frozen=True)
class FlowState(Evaluated):
    """Beside z and f(z): each sample's next step in t, (B,); 0 where it would be below rounding."""

    h: Tensor
    time: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class Flow(Solver[Equilibrium, FlowState]):
    """Integrate z' = f(z) - z from z0 until it rests: the root that the dynamics select.

    With an embedded pair every sample has its own steps. Their local error is held below `error`
    of the step's own length, not of the state, and the step below `max_step`: so the flow neither
    stalls at the integrator's tolerance nor leaves its stability region, which holds the disk of
    radius 1 about -1. Other tableaus take steps of h; `Flow(EULER, h=1.0)` is `Picard()`.

    Arguments:
        tableau: the Runge-Kutta method.
        error: local error of a step of an embedded pair, relative to the length of the step.
        max_step: largest step in t; 1 is stable wherever the Jacobian of f has norm below 1.
        h: first step in t, and every step of a tableau without an error estimate.

    References:
        P. Bogacki, L. Shampine (1989), A 3(2) pair of Runge-Kutta formulas.
    """

    max_steps: int = field(default=1000, kw_only=True)
    tableau: Tableau = BOSH3
    error: float = 0.1
    max_step: float = 1.0
    h: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.tableau, Tableau):
            raise TypeError(f"tableau must be a Tableau such as BOSH3; got {self.tableau!r}.")
        if not (self.error > 0 and 0 < self.h <= self.max_step):
            raise ValueError(
                "Flow needs error > 0 and 0 < h <= max_step; got "
                f"error={self.error}, h={self.h}, max_step={self.max_step}."
            )

    def init(self, problem: Equilibrium, z0: Tensor) -> FlowState:
        first = start(problem, z0)
        h = torch.full_like(first.residual, self.h)
        return FlowState(first.z, first.residual, first.fz, h, time=torch.zeros_like(h))

    def step(self, problem: Equilibrium, state: FlowState) -> FlowState:
        z, h = state.z, expand(state.h, state.z)
        end, slopes = advance(self.tableau, lambda c, z: problem.residual(z), z, state.fz - z, h)
        fend = problem(end)
        slopes.append(fend - end)
        residual, time = relative(slopes[-1], fend), state.time + state.h
        if not self.tableau.error:
            return FlowState(end, residual, fend, state.h, time=time)
        with torch.no_grad():
            length = self.error * norm(end - z)
            ratio = state.h * norm(missed(self.tableau, slopes)) / divisor(length)
            ratio = torch.where(ratio >= 0, ratio, float("inf"))  # NaN is not
            accepted = ratio <= 1
            # The error has one order more than the method, and the length is of first order.
            new_h = next_step(state.h, ratio, self.tableau.order - 1, LEAST * self.max_step)
        take = expand(accepted, z)
        new = FlowState(
            torch.where(take, end, z),
            torch.where(accepted, residual, state.residual),
            torch.where(take, fend, state.fz),
            new_h.clamp(max=self.max_step),
            time=torch.where(accepted, time, state.time),
        )
        return stuck(self, new, new.h)


def SteadyState(error: float = 0.1, max_step: float = 1.0, h: float = 0.5, **settings: Any) -> Flow:
    """Return `Flow(error=error, ...)`, whose name this was."""
    warn_deprecated(
        "SteadyState(...) is Flow(...) now, with the same settings by name.", gone="0.3"
    )
    return Flow(error=error, max_step=max_step, h=h, **settings)
