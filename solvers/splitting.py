"""Monotone inclusions and the operator splittings that solve them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import torch
from torch import Tensor

from .norms import relative
from .problem import Equilibrium
from .solution import ErrorBound
from .solver import Evaluated, S, Solver
from .structure import Counter, Map, Wrapped, offered

Moduli = tuple[float, float]


def _derived(*args: Tensor) -> Tensor:
    raise AssertionError("MonotoneInclusion derives its map")


@dataclass(frozen=True)
class Projected(Wrapped):
    """The map z -> P(W z + x). A projection stretches nothing: it offers what W offers."""

    function: Map
    prox: Callable[[Tensor], Tensor]

    def __call__(self, z: Tensor, x: Tensor) -> Tensor:
        return self.prox(self.function(z) + x)


@dataclass(frozen=True)
class MonotoneInclusion(Equilibrium):
    """The equation z* = P(W z* + x): find the zero of (I - W) z - x + N(z), N the normal cone.

    P is the projection on a closed convex set, ReLU for the nonnegative orthant. There is one
    answer if A = I - W is strongly monotone, <A z, z> >= m ||z||^2 with m > 0, whatever ||W|| is.
    Its map is z -> P(W z + x), so that every other solver of an `Equilibrium` takes it too.

    Arguments:
        map: left out; derived from `linear` and `prox`.
        condition: (x,), of the state's shape (B, ...).
        linear: z -> W z; may be `Structured`.
        resolvent: alpha -> (v -> (I + alpha (I - W))^-1 v). Called once per solve, so that it may
            factorise. Needed by `PeacemanRachford` and `DouglasRachford`.
        prox: the projection P. The splittings use the same for every step size, which a proximal
            operator that is no projection would not allow.
        moduli: () -> (m, l), a lower bound of the least eigenvalue of the symmetric part of I - W
            and an upper one of ||I - W||. Called once per solve by a solver with step_size=None;
            1 - L and 1 + L where they are left out and `linear` offers its `lipschitz` L.
        metric: the diagonal D, (n,) or what broadcasts with a state, of the inner product <D z, y>
            in which the moduli hold; that of all ones by default. P must be the projection in it,
            too, as those on a box and an orthant are.

    References:
        E. Winston, J. Z. Kolter (2020), Monotone operator equilibrium networks.
        E. Ryu, S. Boyd (2016), A primer on monotone operator methods.
    """

    map: Map = _derived
    linear: Map = field(default=_derived, kw_only=True)
    resolvent: Callable[[float], Map] | None = field(default=None, kw_only=True)
    prox: Callable[[Tensor], Tensor] = field(default=torch.relu, kw_only=True)
    moduli: Callable[[], Moduli] | None = field(default=None, kw_only=True)
    metric: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.linear is _derived:
            raise TypeError("MonotoneInclusion needs linear=, the map z -> W z.")
        if self.condition is None or len(self.condition) != 1:
            raise ValueError("MonotoneInclusion needs condition=(x,), one tensor (B, ...).")
        if self.coupled:
            raise ValueError("W of a MonotoneInclusion acts on each row by itself; leave coupled.")
        if self.map is _derived:
            object.__setattr__(self, "map", Projected(self.linear, self.prox))

    @property
    def x(self) -> Tensor:
        """The condition."""
        return self.inputs[0]

    def image(self, z: Tensor) -> Tensor:
        """Evaluate W z + x, in z's dtype."""
        return (self.linear(z) + self.x).to(z.dtype)

    @torch.no_grad()
    def bound(self, z: Tensor, m: float) -> ErrorBound:
        """Bound how far any state is from the answer, in the metric, by one evaluation f = f(z):

            ||z - z*|| <= ||f - z|| + ||W (f - z)|| / m,

        in exact arithmetic. W z + x - f is normal to P's set at f, so that e = W (z - f) is in
        (I - W) f - x + N(f), where 0 is at z*; as N is monotone, m ||f - z*||^2 <= <e, f - z*>.

        Arguments:
            z: (B, ...).
            m: as `moduli` has it, above 0; where it is not, the bound is infinite.

        Returns:
            Its tensors in double precision.
        """
        gap = self.prox(self.image(z)) - z
        parts = gap, self.linear(gap)
        root = None if self.metric is None else self.metric.double().sqrt()
        moved, pushed = (
            torch.linalg.vector_norm((p if root is None else root * p).double().flatten(1), dim=1)
            for p in parts
        )
        size: Tensor = moved + (pushed / m if m > 0 else math.inf)
        return ErrorBound(size, torch.full_like(size, math.inf), None, 2.0, self.metric)

    def wrapped(self, wrap: Callable[[Map], Map]) -> MonotoneInclusion:
        """Return the problem with its maps put through `wrap`."""
        return replace(self, map=wrap(self.map), linear=wrap(self.linear))

    def counted(self) -> tuple[MonotoneInclusion, Counter]:
        """Return the same problem with maps that count their calls, and the counter.

        A product with W, an evaluation of the map and an application of the resolvent are one
        evaluation each. Factorising for the resolvent is none.
        """
        counter, inverse = Counter(self.map), self.resolvent
        solved = None if inverse is None else lambda alpha: Counter(inverse(alpha), counter)
        linear = Counter(self.linear, counter)
        return replace(self, map=counter, linear=linear, resolvent=solved), counter


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
    """

    u: Tensor
    alpha: float
    inverse: Map


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
        bound = offered(problem.linear, "lipschitz")
        if problem.moduli is not None:
            m, norm = problem.moduli()
        elif bound is not None:  # |<W z, z>| <= L ||z||^2
            size = bound()
            m, norm = 1 - size, 1 + size
        else:
            raise ValueError(
                f"{type(self).__name__}(step_size=None) chooses its step from the moduli of the "
                "problem, which carries none. Give step_size."
            )
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
        z = inclusion.prox(torch.lerp(state.z, state.image, state.alpha))
        return self._at(inclusion, z, state.alpha, state.modulus)

    def _at(
        self, problem: MonotoneInclusion, z: Tensor, alpha: float, m: float | None
    ) -> ForwardState:
        image = problem.image(z)
        fz = problem.prox(image)
        return ForwardState(z, relative(fz - z, fz), fz, image, alpha, modulus=m)


@dataclass(frozen=True)
class _Reflecting(_Splitting[ReflectedState]):
    def init(self, problem: Equilibrium, z0: Tensor) -> ReflectedState:
        inclusion = cast("MonotoneInclusion", problem)
        if inclusion.resolvent is None:
            raise TypeError(
                f"{type(self).__name__} needs a problem with a resolvent, and this one has none. "
                "Use ForwardBackward()."
            )
        alpha, m = self._alpha(inclusion)
        image = inclusion.image(z0)
        fz = inclusion.prox(image)
        # u of the answer if z0 is the answer; and P(u) is a forward-backward step from z0.
        u = torch.lerp(z0, image, alpha)
        inverse = inclusion.resolvent(alpha)
        return ReflectedState(z0, relative(fz - z0, fz), fz, u, alpha, inverse, modulus=m)

    def step(self, problem: Equilibrium, state: ReflectedState) -> ReflectedState:
        inclusion, u, alpha = cast("MonotoneInclusion", problem), state.u, state.alpha
        v = 2 * inclusion.prox(u) - u
        y = state.inverse(v + alpha * inclusion.x).to(u.dtype)
        u = self.moved(u, 2 * y - v)
        z = inclusion.prox(u)
        # By y's definition W y + x = y + (y - v) / alpha, so that a residual at y would be free;
        # but it would carry the resolvent's rounding, and what is proved of f(z) would not hold.
        fz = inclusion.prox(inclusion.image(z))
        return replace(state, z=z, fz=fz, residual=relative(fz - z, fz), u=u)

    @abstractmethod
    def moved(self, u: Tensor, reflected: Tensor) -> Tensor:
        """Return the next u, from this one and where both reflections take it."""


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

    Raises:
        TypeError, ValueError: as `PeacemanRachford`.

    References:
        P.-L. Lions, B. Mercier (1979), Splitting algorithms for the sum of two nonlinear operators.
    """

    def best(self, m: float, norm: float) -> float:
        return 1 / norm if m >= 0 else 0.0

    def moved(self, u: Tensor, reflected: Tensor) -> Tensor:
        return (u + reflected) / 2
