"""Steps that can be taken back: two copies of a state, each moved by what the other is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from ..norms import finite, norm
from ..ode.runge_kutta import RungeKutta, advance
from ..picard import Picard
from ..problem import Equilibrium, InitialValue
from ..solver import Evaluated, Solver, State, start
from ..status import Status

APART = 0.1
"""How far apart two copies of a flow may end, relative to them. Both err by less, or are lost."""

Move = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Pair(Evaluated):
    """Beside z and f(z): the other copy of z, (B, ...)."""

    y: Tensor


@dataclass(frozen=True)
class FlowPair(State):
    """Beside z: the other copy of it, (B, ...), and the steps taken, shared by the batch."""

    y: Tensor
    count: int
    time: Tensor = field(kw_only=True)


class Coupled(Protocol):
    """Steps of the two copies, by two moves P and Q that are functions of one copy alone:

        y <- keep y + cross z + P(z),   z <- hold z + Q(y).

    Taken back: z <- (z - Q(y)) / hold, y <- (y - cross z - P(z)) / keep.
    """

    @property
    def weights(self) -> tuple[float, float, float]:
        """Return keep, cross and hold."""
        ...

    def moves(self, problem: Any, n: int) -> tuple[Move, Move]:
        """Return P and Q of step n, n = 0 the first."""
        ...


@dataclass(frozen=True)
class CoupledPicard(Solver[Equilibrium, Pair]):
    """Take damped steps of two copies of z: two evaluations a step.

        y <- (1 - damping) y + damping f(z),   z <- (1 - damping) z + damping f(y).

    Arguments:
        damping: beta, above 0 and below 1.

    References:
        S. McCallum, K. Arora, J. Foster (2025), Reversible deep equilibrium models.
    """

    damping: float = 0.5

    @classmethod
    def of(cls, solver: Picard) -> CoupledPicard:
        """Return the coupled form of a solver's steps."""
        settings = {name: getattr(solver, name) for name in ("rtol", "atol", "max_steps")}
        return cls(solver.damping, **settings)

    @property
    def weights(self) -> tuple[float, float, float]:
        return 1 - self.damping, 0.0, 1 - self.damping

    def init(self, problem: Equilibrium, z0: Tensor) -> Pair:
        first = start(problem, z0)
        return Pair(first.z, first.residual, first.fz, z0)

    def step(self, problem: Equilibrium, state: Pair) -> Pair:
        y = state.y.lerp(state.fz, self.damping)
        new = start(problem, state.z.lerp(problem(y), self.damping))
        return Pair(new.z, new.residual, new.fz, y)

    def moves(self, problem: Equilibrium, n: int) -> tuple[Move, Move]:
        def move(z: Tensor) -> Tensor:
            return self.damping * problem(z)

        return move, move


@dataclass(frozen=True)
class CoupledFlow(Solver[InitialValue, FlowPair]):
    """Take equal steps of two copies of z, one by h and the other back by -h.

    With D_h(t, z) what a Runge-Kutta step adds to z, and beta the coupling,

        y <- (1 - beta) y + beta z + D_h(t, z),   z <- z - D_-h(t + h, y),

    of the order of the method. The copies tell of an error: where they end far apart, as a flow
    that contracts has them for too long a step, a sample is LOST_PATH.

    Arguments:
        base: the method, and its steps.
        coupling: beta, above 0 and below 1.

    References:
        S. McCallum, J. Foster (2024), Efficient, accurate and stable gradients for neural ODEs.
    """

    answers: ClassVar[type[InitialValue]] = InitialValue

    base: RungeKutta = RungeKutta()  # noqa: RUF009  (frozen)
    coupling: float = 0.1

    @classmethod
    def of(cls, solver: RungeKutta, coupling: float) -> CoupledFlow:
        """Return the coupled form of a solver's steps."""
        return cls(solver, coupling, max_steps=solver.max_steps)

    @property
    def weights(self) -> tuple[float, float, float]:
        return 1 - self.coupling, self.coupling, 1.0

    def init(self, problem: InitialValue, z0: Tensor) -> FlowPair:
        return self._state(problem, z0, z0, 0)

    def step(self, problem: InitialValue, state: FlowPair) -> FlowPair:
        first, second = self.moves(problem, state.count)
        y = state.y.lerp(state.z, self.coupling) + first(state.z)
        return self._state(problem, state.z + second(y), y, state.count + 1)

    def tolerance(self, state: State) -> float:
        return 0.0  # the residual is what is left of the way

    def loosened(self, rtol: float) -> CoupledFlow:
        return self  # equal steps have no tolerance

    def moves(self, problem: InitialValue, n: int) -> tuple[Move, Move]:
        begin, end = self._time(problem, n), self._time(problem, n + 1)
        return self._move(problem, begin, end, 1), self._move(problem, end, begin, -1)

    def _move(self, problem: InitialValue, begin: float, end: float, sign: int) -> Move:
        """Return z -> sign D(z), the step from one time to another."""
        h = end - begin

        def slope(c: float, z: Tensor) -> Tensor:
            return problem(z.new_tensor(begin + c * h), z)

        def move(z: Tensor) -> Tensor:
            new, _ = advance(self.base.tableau, slope, z, slope(0.0, z), z.new_tensor(h))
            return sign * (new - z)

        return move

    def _time(self, problem: InitialValue, n: int) -> float:
        return problem.t0 + (problem.t1 - problem.t0) * (n / self.base.equal_steps(problem))

    def _state(self, problem: InitialValue, z: Tensor, y: Tensor, count: int) -> FlowPair:
        left = 1 - count / self.base.equal_steps(problem)
        residual = norm(z[..., :0]) + left  # in the dtype of norms
        residual = torch.where(finite(z) & finite(y), residual, math.inf)
        status = None
        if left == 0:
            away = norm((z - y).detach()) > APART * norm(z.detach())
            status = torch.where(away, Status.LOST_PATH, Status.CONVERGED)
            status = torch.where(torch.isfinite(residual), status, Status.NONFINITE).to(torch.int8)
        time = torch.full_like(residual, self._time(problem, count))
        return FlowPair(z, residual, y, count, status=status, time=time)
