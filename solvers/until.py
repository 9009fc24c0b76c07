"""Stop a sample once something is known of it, rather than at a residual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from .problem import Equilibrium
from .solver import Evaluated, Solver, State, named, verdict
from .status import Status

Decision = Callable[..., Tensor]


@dataclass(frozen=True)
class UntilState(State):
    """Beside f(z), where samples end: the state of the inner solver, which is at z.

    Arguments:
        z: as in `State`.
        residual: as in `State`.
        inner: the inner solver's state.
        about: of these samples, what the decision is about.
    """

    inner: Evaluated
    about: Tensor | None = None


@dataclass(frozen=True)
class Until(Solver[Equilibrium, UntilState]):
    """Iterate as `solver` does until a decision holds at f(z).

    A decided sample ends CONVERGED with the answer f(z) of the step that decided it. One that
    `solver` would stop undecided ends there, too, as `solver` says, or MAX_STEPS where it says
    CONVERGED.

    Arguments:
        solver: how to iterate; its tolerance and max_steps bound the tries.
        decision: maps the problem and the state, rows of the same samples, to bool (B,). It may
            look at `state.z` and `state.fz`, and must judge each row by itself.
        about: what is to be decided of each sample, (B, ...), if that is not the same for all: the
            decision then takes its rows after the state.

    Raises:
        ValueError: the problem has more than one row and does not promise `rowwise`, or another
            number of them than `about`.
        TypeError: `solver` keeps no f(z), as paths and ladders of solvers do not.
    """

    answers: ClassVar[type[Equilibrium]] = Equilibrium
    rtol: float = field(init=False)
    atol: float = field(init=False)
    max_steps: int = field(init=False)
    solver: Solver[Equilibrium, Any]
    decision: Decision
    about: Tensor | None = None

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
        if self.about is not None and len(self.about) != len(z0):
            raise ValueError(f"about has {len(self.about)} rows, and the state {len(z0)}.")
        inner = self.solver.init(problem, z0)
        if not isinstance(inner, Evaluated):
            raise TypeError(
                f"Until decides on f(z) at each state, which {type(self.solver).__name__} does not "
                "keep. Use a solver that evaluates f at every iterate, such as Anderson()."
            )
        return self._judge(problem, inner, self.about)

    def step(self, problem: Equilibrium, state: UntilState) -> UntilState:
        return self._judge(problem, self.solver.step(problem, state.inner), state.about)

    def _judge(self, problem: Equilibrium, inner: Evaluated, about: Tensor | None) -> UntilState:
        asked = () if about is None else (about,)
        decided = self.decision(problem, inner, *asked) & torch.isfinite(inner.residual)
        code = verdict(self.solver, inner)
        if code is None:
            code = torch.zeros_like(decided, dtype=torch.int8)
        code = code.to(decided.device)
        code = torch.where(code == Status.CONVERGED, Status.MAX_STEPS, code)
        code = torch.where(decided, Status.CONVERGED, code)
        return UntilState(
            inner.fz,  # where all samples end, decided or not: f is not evaluated there
            inner.residual,
            inner,
            about,
            status=code.to(torch.int8),
            evals=inner.evals,
            time=inner.time,
        )
