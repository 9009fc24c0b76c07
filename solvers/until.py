"""Stop a sample once something is known of it, rather than at a residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .norms import expand
from .problem import Equilibrium
from .solver import Evaluated, Solver, State, named, verdict
from .status import Status

Decision = Callable[[Equilibrium, Evaluated], Tensor]


@dataclass(frozen=True)
class UntilState(State):
    """Beside the iterate, which is f(z) where a sample is decided: the inner solver's state."""

    inner: Evaluated


@dataclass(frozen=True)
class Until(Solver[Equilibrium, UntilState]):
    """Iterate as `solver` does until a decision holds at f(z).

    A decided sample ends CONVERGED with the answer f(z) of the step that decided it. One that
    `solver` would stop undecided ends as `solver` says, or MAX_STEPS where it says CONVERGED.

    Arguments:
        solver: how to iterate; its tolerance and max_steps bound the tries.
        decision: maps the problem and the state, rows of the same samples, to bool (B,). It may
            look at `state.z` and `state.fz`, and must judge each row by itself.

    Raises:
        ValueError: the problem has more than one row and does not promise `rowwise`.
        TypeError: `solver` keeps no f(z), as paths and ladders of solvers do not.
    """

    answers: ClassVar[type[Equilibrium]] = Equilibrium
    rtol: float = field(init=False)
    atol: float = field(init=False)
    max_steps: int = field(init=False)
    solver: Solver[Equilibrium, Any]
    decision: Decision

    def __post_init__(self) -> None:
        solver: object = self.solver
        if not isinstance(solver, Solver) or not issubclass(solver.answers, Equilibrium):
            raise TypeError(f"Until takes a solver of an Equilibrium; got {named(solver)}.")
        for name in ("answers", "rtol", "atol", "max_steps"):
            object.__setattr__(self, name, getattr(solver, name))

    def loosened(self, rtol: float) -> Until:
        return replace(self, solver=self.solver.loosened(rtol))

    @property
    def compacts_below(self) -> float:
        return self.solver.compacts_below

    def init(self, problem: Equilibrium, z0: Tensor) -> UntilState:
        if not problem.rowwise and z0.shape[0] > 1:
            raise ValueError(
                "Until ends samples by a decision that cannot be checked on the full batch: it "
                "needs a map whose rows are independent, Equilibrium(..., rowwise=True)."
            )
        inner = self.solver.init(problem, z0)
        if not isinstance(inner, Evaluated):
            raise TypeError(
                f"Until decides on f(z) at each state, which {type(self.solver).__name__} does not "
                "keep. Use a solver that evaluates f at every iterate, such as Anderson()."
            )
        return self._judge(problem, inner)

    def step(self, problem: Equilibrium, state: UntilState) -> UntilState:
        return self._judge(problem, self.solver.step(problem, state.inner))

    def _judge(self, problem: Equilibrium, inner: Evaluated) -> UntilState:
        decided = self.decision(problem, inner) & torch.isfinite(inner.residual)
        z, code = inner.z, verdict(self.solver, inner)
        if code is None:
            code = torch.zeros_like(decided, dtype=torch.int8)
        code = torch.where(code == Status.CONVERGED, Status.MAX_STEPS, code)
        if bool(decided.any()):  # it ends at f(z), of which f is not evaluated
            z = torch.where(expand(decided, z), inner.fz, z)
            code = torch.where(decided, Status.CONVERGED, code)
        return UntilState(
            z,
            inner.residual,
            inner,
            status=code.to(torch.int8),
            evals=inner.evals,
            time=inner.time,
        )
