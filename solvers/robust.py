"""The default escalation for equations that fixed-point iterations do not solve."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .anderson import Anderson
from .compose import Then, ThenState
from .homotopy import ArcLength, Continuation, StepControl
from .problem import Equilibrium
from .pseudo_transient import PseudoTransient
from .solution import Solution, V
from .solver import Solver
from .status import summarize

# A tracker that leaves its path for another has taken too wide a turn: half the angle of
# ArcLength's default, and shorter steps, for the one draw in a hundred that needs them.
CAREFUL = StepControl(ds=0.05, max_ds=0.2, turn=math.pi / 12)


@dataclass(frozen=True)
class Robust(Solver[Equilibrium, ThenState]):
    """Try Anderson, natural continuation, pseudo-transient continuation and arclength in turn,
    the last once more with shorter steps.

    Each rung receives only the samples that the rungs before failed on, so that an easy batch
    costs what Anderson costs. `solved_by` says who solved how many.

    Arguments:
        max_steps: rungs to use at most, of the five.
    """

    max_steps: int = field(default=5, kw_only=True)

    @property
    def ladder(self) -> Then:
        """The rungs, at this solver's tolerance."""
        rtol, atol = self.rtol, self.atol
        return Then(
            Anderson(rtol=rtol, atol=atol),
            Continuation(rtol=rtol, atol=atol),
            PseudoTransient(rtol=rtol, atol=atol),
            ArcLength(rtol=rtol, atol=atol),
            ArcLength(rtol=rtol, atol=atol, control=CAREFUL),
        )

    @property
    def compacts_below(self) -> float:
        return 1.0  # a step is a whole solve

    def init(self, problem: Equilibrium, z0: Tensor) -> ThenState:
        return self.ladder.init(problem, z0)

    def step(self, problem: Equilibrium, state: ThenState) -> ThenState:
        return self.ladder.step(problem, state)

    def report(self, solution: Solution[V]) -> str:
        """Say who solved how many: "Anderson solved 250, Continuation 5; 1 needed ..."."""
        solved = solved_by(self.ladder, solution)
        parts = [f"{name} {'solved ' * (k == 0)}{count}" for k, (name, count) in
                 enumerate(solved.items())]  # fmt: skip
        failed = summarize(solution.status)
        return ", ".join(parts) + (f"; {failed}." if failed else ".")


def solved_by(ladder: Solver[Equilibrium, Any], solution: Solution[V]) -> dict[str, int]:
    """Return how many samples each solver of a `Then`, or of `Robust`, solved, in their order.

    Arguments:
        ladder: the solver that found the solution.
        solution: what `solve` returned.

    Raises:
        TypeError: the solver is not one that escalates.
    """
    if isinstance(ladder, Robust):
        ladder = ladder.ladder
    if not isinstance(ladder, Then):
        raise TypeError(f"solved_by needs a Then or a Robust; got {type(ladder).__name__}.")
    rung = solution.steps[solution.converged].clamp(min=1).tolist()
    counts: dict[str, int] = {}
    for k, solver in enumerate(ladder.solvers, start=1):
        name = type(solver).__name__
        counts[name] = counts.get(name, 0) + rung.count(k)
    return counts
