"""Escalation: hand the samples that one solver fails on to the next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .driver import run
from .norms import expand
from .problem import Equilibrium
from .solution import Solution, V
from .solver import Solver, State, earned, named, residual_norm, start
from .status import Status, summarize

NEAR = 10.0  # times the tolerance: from here a solver polishes, from farther off it starts anew


@dataclass(frozen=True)
class ThenState(State):
    """Beside the best answer so far: the start, and the verdict of the last solver.

    Arguments:
        start: where every solver begins that finds no better answer, (B, ...).
        code: each sample's `Status` under the last solver, or under the last that left a finite
            value, int8 (B,).
        stage: solvers used so far, shared by the batch.
    """

    start: Tensor
    code: Tensor
    stage: int
    evals: Tensor = field(kw_only=True)


@dataclass(frozen=True, init=False)
class Then(Solver[Equilibrium, ThenState]):
    """Try solvers in turn; each receives only the samples that the ones before failed on.

    A solver begins at the start, as if it were alone, but at the best answer so far where that
    one has all but converged, and its ||f(z) - z|| has fallen below that of the start: a failed
    iterate is seldom a better start than the start.
    `Solution.steps` is the number of solvers that a sample saw: `steps == k` means that the k-th
    solved it. A sample that none solves ends at the best answer, with the status of the last
    solver that did not end NONFINITE. The tolerances are those of the solvers.

    Arguments:
        *given: at least one solver of an `Equilibrium`.
        solvers: the same, as `dataclasses.replace` gives them.

    Raises:
        TypeError: an argument is not a solver of an `Equilibrium`.
    """

    answers: ClassVar[type[Equilibrium]] = Equilibrium
    rtol: float = field(init=False)
    atol: float = field(init=False)
    max_steps: int = field(init=False)
    solvers: tuple[Solver[Equilibrium, Any], ...] = ()

    def __init__(
        self,
        *given: Solver[Equilibrium, Any],
        solvers: tuple[Solver[Equilibrium, Any], ...] = (),
    ) -> None:
        solvers = given or solvers
        if not solvers:
            raise ValueError("Then needs at least one solver, as in Then(Anderson(), ...).")
        for solver in solvers:
            if not isinstance(solver, Solver) or not issubclass(solver.answers, Equilibrium):
                raise TypeError(f"Then takes solvers of an Equilibrium; got {named(solver)}.")
        last = solvers[-1]
        settings: dict[str, Any] = {"rtol": last.rtol, "atol": last.atol, "max_steps": len(solvers)}
        strictest = max((each.answers for each in solvers), key=lambda kind: len(kind.__mro__))
        for name, value in {**settings, "answers": strictest, "solvers": solvers}.items():
            object.__setattr__(self, name, value)

    def loosened(self, rtol: float) -> Then:
        return Then(*(solver.loosened(rtol) for solver in self.solvers))

    def report(self, solution: Solution[V]) -> str:
        """Say who solved how many: "Anderson solved 250, Continuation 5; 1 needed ..."."""
        (name, count), *others = solved_by(self, solution).items()
        parts = [f"{name} solved {count}", *(f"{name} {count}" for name, count in others)]
        failed = summarize(solution.status)
        return ", ".join(parts) + (f"; {failed}." if failed else ".")

    @property
    def compacts_below(self) -> float:
        return 1.0  # a step is a whole solve

    def init(self, problem: Equilibrium, z0: Tensor) -> ThenState:
        batch = z0.shape[0]
        evals = torch.zeros(batch, dtype=torch.int64, device=z0.device)
        code = torch.zeros(batch, dtype=torch.int8, device=z0.device)
        residual = z0.new_full((batch,), float("inf"))
        return ThenState(z0, residual, z0, code, 0, evals=evals, status=code)

    def step(self, problem: Equilibrium, state: ThenState) -> ThenState:
        begin, evals = state.start, state.evals
        if state.stage:
            near = state.residual <= NEAR * self.solvers[state.stage].rtol
            if bool(near.any()):  # at a start that is handed on, nothing has to fall any more
                first, best = (residual_norm(start(problem, z)) for z in (state.start, state.z))
                evals = evals + 2 * near
                near &= earned(self.solvers[state.stage], state.z, best, first)
            begin = torch.where(expand(near, begin), state.z, begin)
        found = run(problem, self.solvers[state.stage], begin)
        residual = found.residual.to(state.residual)
        # Where atol is what was met, a root can have a larger relative residual than a failure.
        better = found.converged | (residual <= state.residual)
        # NONFINITE means that there is no value, and an earlier solver has left one.
        kept = (found.status == Status.NONFINITE) & torch.isfinite(state.residual)
        code, stage = torch.where(kept, state.code, found.status), state.stage + 1
        return replace(
            state,
            z=torch.where(expand(better, begin), found.value, state.z),
            residual=torch.where(better, residual, state.residual),
            status=code if stage == len(self.solvers) else code * (code == Status.CONVERGED),
            code=code,
            stage=stage,
            evals=evals + found.evals,
            checks=state.checks + found.checks,
        )


def solved_by(ladder: Solver[Equilibrium, Any], solution: Solution[V]) -> dict[str, int]:
    """Return how many samples each solver of a `Then`, or of `Robust`, solved, in their order.

    Arguments:
        ladder: the solver that found the solution.
        solution: what `solve` returned.

    Raises:
        TypeError: the solver is not one that escalates.
    """
    if not isinstance(ladder, Then):
        raise TypeError(f"solved_by needs a Then or a Robust; got {type(ladder).__name__}.")
    rung = solution.steps[solution.converged].clamp(min=1).tolist()
    counts: dict[str, int] = {}
    for k, solver in enumerate(ladder.solvers, start=1):
        name = type(solver).__name__
        counts[name] = counts.get(name, 0) + rung.count(k)
    return counts
