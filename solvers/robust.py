"""The default escalation for equations that fixed-point iterations do not solve."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from .anderson import Anderson
from .compose import Then
from .homotopy import ArcLength, Continuation, Newton, StepControl
from .newton import NewtonKrylov
from .problem import Equilibrium
from .pseudo_transient import PseudoTransient
from .solver import Solver

# A tracker that leaves its path for another has taken too wide a turn: half the angle of
# ArcLength's default, and shorter steps, for the one draw in a hundred that needs them.
CAREFUL = StepControl(ds=0.05, max_ds=0.2, turn=math.pi / 12)


@dataclass(frozen=True, init=False)
class Robust(Then):
    """Try Anderson, natural continuation, pseudo-transient continuation and arclength in turn,
    the last once more along the Newton homotopy, and with shorter steps; then Newton's method.

    Each rung receives only the samples that the rungs before failed on, so that an easy batch
    costs what Anderson costs. `report` and `solved_by` say who solved how many.

    Arguments:
        rtol: of every rung.
        atol: of every rung.
        max_steps: rungs to use at most, of the seven.
    """

    rtol: float = field(default=1e-4, kw_only=True)
    atol: float = field(default=0.0, kw_only=True)
    max_steps: int = field(default=7, kw_only=True)
    solvers: tuple[Solver[Equilibrium, Any], ...] = field(init=False, repr=False)

    def __init__(self, *, rtol: float = 1e-4, atol: float = 0.0, max_steps: int = 7) -> None:
        super().__init__(
            Anderson(rtol=rtol, atol=atol),
            Continuation(rtol=rtol, atol=atol),
            PseudoTransient(rtol=rtol, atol=atol),
            ArcLength(rtol=rtol, atol=atol),
            ArcLength(rtol=rtol, atol=atol, homotopy=Newton()),
            ArcLength(rtol=rtol, atol=atol, control=CAREFUL),
            NewtonKrylov(rtol=rtol, atol=atol),
        )
        object.__setattr__(self, "max_steps", max_steps)
        self.__post_init__()

    def loosened(self, rtol: float) -> Robust:
        return self if self.rtol >= rtol else replace(self, rtol=rtol)
