"""The operator splittings that solve monotone inclusions."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from .anderson import Anderson, AndersonState
from .inclusion import MonotoneInclusion
from .norms import relative
from .problem import Equilibrium
from .solver import Evaluated, S, Solver
from .structure import Map


@dataclass(frozen=True)
class ForwardState(Evaluated):
    """Beside the iterate: W z + x, and the step size of this solve."""

    image: Tensor
    alpha: float


@dataclass(frozen=True)
class ReflectedState(Evaluated):
    """Beside the answer z so far: the point u that the reflections move, and this solve's map.

    Arguments:
        u: (B, ...). At the answer u = z + alpha (W z + x - z) and z = P(u).
        alpha: the step size.
        inverse: v -> (I + alpha (I - W))^-1 v.
        past: what an accelerator knows of u's last moves.
    """

    u: Tensor
    alpha: float
    inverse: Map
    past: AndersonState | None = None


@dataclass(frozen=True)
class _Splitting(Solver[Equilibrium, S]):
    max_steps: int = field(default=1000, kw_only=True)
    answers: ClassVar[type[Equilibrium]] = MonotoneInclusion
    step_size: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise ValueError(f"step_size must be above 0 and finite; got {self.step_size}.")

    @abstractmethod
    def best(self, m: float, norm: float) -> float:
        """Return the step size of the best proved rate."""

    def _alpha(self, problem: MonotoneInclusion) -> tuple[float, float | None]:
        """Return the step size, and m where it was asked for."""
        if self.step_size is not None:
            return self.step_size, None
        if problem.moduli is None:
            raise ValueError(
                f"{type(self).__name__}(step_size=None) chooses its step from the moduli of the "
                "problem, which carries none. Give step_size."
            )
        m, norm = problem.moduli()
        alpha = self.best(m, norm)
        if not 0 < alpha < float("inf"):
            raise ValueError(
                f"no step of {type(self).__name__} is known to converge for m = {m:.3g} and "
                f"l = {norm:.3g}: I - W is not known to be monotone. Give step_size."
            )
        return alpha, m


@dataclass(frozen=True)
class ForwardBackward(_Splitting[ForwardState]):
    """Iterate z <- P((1 - alpha) z + alpha (W z + x)): one evaluation a step.

    With A = I - W, <A z, z> >= m ||z||^2 and ||A|| <= l it converges for 0 < alpha < 2 m / l^2,
    each step at the rate sqrt(1 - 2 alpha m + alpha^2 l^2) or better; the best bound is that of
    alpha = m / l^2, and of order (l / m)^2 steps: for a small m take another solver. Where
    ||W|| > 1, plain iteration (alpha = 1) may diverge.

    Arguments:
        step_size: alpha; m / l^2 by default, from the problem's moduli.

    Raises:
        TypeError: the problem is not a `MonotoneInclusion`.
        ValueError: step_size is None and the problem has no moduli, or they are not monotone.

    References:
        E. Winston, J. Z. Kolter (2020), Monotone operator equilibrium networks.
    """

    def best(self, m: float, norm: float) -> float:
        return m / norm**2

    def init(self, problem: Equilibrium, z0: Tensor) -> ForwardState:
        inclusion = cast("MonotoneInclusion", problem)
        return self._at(inclusion, z0, *self._alpha(inclusion))

    def step(self, problem: Equilibrium, state: ForwardState) -> ForwardState:
        inclusion = cast("MonotoneInclusion", problem)
        z = inclusion.project(torch.lerp(state.z, state.image, state.alpha))
        return self._at(inclusion, z, state.alpha, state.modulus)

    def _at(
        self, problem: MonotoneInclusion, z: Tensor, alpha: float, m: float | None
    ) -> ForwardState:
        image = problem.image(z)
        fz = problem.project(image)
        return ForwardState(z, relative(fz - z, fz), fz, image, alpha, modulus=m)


@dataclass(frozen=True)
class _Reflecting(_Splitting[ReflectedState]):
    accelerated: Anderson | None = field(default=None, kw_only=True)

    def init(self, problem: Equilibrium, z0: Tensor) -> ReflectedState:
        inclusion = cast("MonotoneInclusion", problem)
        if inclusion.resolvent is None:
            raise TypeError(
                f"{type(self).__name__} needs a problem with a resolvent, and this one has none. "
                "Use ForwardBackward()."
            )
        alpha, m = self._alpha(inclusion)
        image = inclusion.image(z0)
        fz = inclusion.project(image)
        # u of the answer if z0 is the answer; and P(u) is a forward-backward step from z0.
        u = torch.lerp(z0, image, alpha)
        inverse = inclusion.resolvent(alpha)
        past = None
        if self.accelerated is not None:
            past = self.accelerated.init(self._moves(inclusion, inverse, alpha), u)
        residual = relative(fz - z0, fz)
        return ReflectedState(z0, residual, fz, u, alpha, inverse, past, modulus=m)

    def step(self, problem: Equilibrium, state: ReflectedState) -> ReflectedState:
        inclusion, u, alpha = cast("MonotoneInclusion", problem), state.u, state.alpha
        past = state.past
        if self.accelerated is None or past is None:
            u = self.moved(u, reflected(inclusion, state.inverse, alpha, u))
        else:
            past = self.accelerated.step(self._moves(inclusion, state.inverse, alpha), past)
            u = past.fz
        z = inclusion.project(u)
        # By y's definition W y + x = y + (y - v) / alpha, so that a residual at y would be free;
        # but it would carry the resolvent's rounding, and what is proved of f(z) would not hold.
        fz = inclusion.project(inclusion.image(z))
        return replace(state, z=z, fz=fz, residual=relative(fz - z, fz), u=u, past=past)

    def _moves(self, problem: MonotoneInclusion, inverse: Map, alpha: float) -> Equilibrium:
        """Return the equation u = moved(u, reflected(u))."""

        def move(u: Tensor, *condition: Tensor) -> Tensor:
            there = replace(problem, condition=condition)
            return self.moved(u, reflected(there, inverse, alpha, u))

        return Equilibrium(move, problem.condition, rowwise=True)

    @abstractmethod
    def moved(self, u: Tensor, reflected: Tensor) -> Tensor:
        """Return the next u, from this one and where both reflections take it."""


def reflected(problem: MonotoneInclusion, inverse: Map, alpha: float, u: Tensor) -> Tensor:
    """Return the point u after both reflections, by one application of the resolvent.

        z = P(u),  v = 2 z - u,  y = (I + alpha A)^-1 (v + alpha x),  2 y - v.

    Where it stays, z is the answer: u = reflected(u) is an equation of its own, for any solver.

    Arguments:
        problem: the inclusion.
        inverse: its resolvent for alpha.
        alpha: the step size.
        u: (B, ...).
    """
    z = problem.project(u).to(u.dtype)
    v = torch.lerp(u, z, 2.0)  # the point across: 2 z - u in one pass
    y = inverse(torch.add(v, problem.x, alpha=alpha)).to(u.dtype)
    return torch.lerp(v, y, 2.0)


@dataclass(frozen=True)
class PeacemanRachford(_Reflecting):
    """Reflect at the projection and at the linear part in turn:

        z = P(u),  v = 2 z - u,  y = (I + alpha A)^-1 (v + alpha x),  u <- 2 y - v,  A = I - W.

    A step is two evaluations, the resolvent and f(z) for the residual.
    With m and l as in `ForwardBackward`, u converges for every alpha if m > 0, each step at the
    rate sqrt((1 - 2 alpha m + alpha^2 l^2) / (1 + 2 alpha m + alpha^2 l^2)) or better; the best
    bound is that of alpha = 1 / l. A strictly block-triangular W, which is an explicit network,
    ends after finitely many steps for alpha = 1: one a block, and one to see it.

    Arguments:
        step_size: alpha; 1 / l by default, from the problem's moduli.
        accelerated: moves u by Anderson's mixing of its last moves: for the few directions in which
            W is large, which the reflections alone settle slowly, whatever the step. Its tolerance
            and number of steps are this solver's.

    Raises:
        TypeError: the problem is not a `MonotoneInclusion`, or has no resolvent.
        ValueError: step_size is None and the problem has no moduli, or they are not monotone.

    References:
        E. Winston, J. Z. Kolter (2020), Monotone operator equilibrium networks.
        P.-L. Lions, B. Mercier (1979), Splitting algorithms for the sum of two nonlinear operators.
    """

    def best(self, m: float, norm: float) -> float:
        return 1 / norm if m > 0 else 0.0

    def moved(self, u: Tensor, reflected: Tensor) -> Tensor:
        return reflected


@dataclass(frozen=True)
class DouglasRachford(_Reflecting):
    """Go half the way of each Peaceman-Rachford step, two evaluations as there.

    u converges at the rate (1 + rate of `PeacemanRachford`) / 2 or better, and for m = 0 too
    where there is an answer, which Peaceman-Rachford need not.

    Arguments:
        step_size: alpha; 1 / l by default, from the problem's moduli.
        accelerated: as in `PeacemanRachford`.

    Raises:
        TypeError, ValueError: as `PeacemanRachford`.

    References:
        P.-L. Lions, B. Mercier (1979), Splitting algorithms for the sum of two nonlinear operators.
    """

    def best(self, m: float, norm: float) -> float:
        return 1 / norm if m >= 0 else 0.0

    def moved(self, u: Tensor, reflected: Tensor) -> Tensor:
        return (u + reflected) / 2
