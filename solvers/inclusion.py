"""Monotone inclusions: equations with one answer whatever the norm of W is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .problem import Equilibrium, check_tuple
from .solution import ErrorBound
from .structure import Counter, Map, Wrapped, offered

Moduli = tuple[float, float]


def _derived(*args: Tensor) -> Tensor:
    raise AssertionError("MonotoneInclusion derives its map")


@dataclass(frozen=True)
class Projected(Wrapped):
    """The map z -> P(W z + x). A projection stretches nothing: it offers what W offers."""

    function: Map
    prox: Map

    def __call__(self, z: Tensor, x: Tensor, *given: Tensor) -> Tensor:
        return self.prox(self.function(z) + x, *given)


def transposed(function: Map, like: Tensor) -> Map:
    """Return the transposed linear map: what `function` offers, or by its derivative."""
    own = offered(function, "transposed")
    return Transposed(function, like) if own is None else own()


class Transposed:
    """The product u -> W^T u with a linear map's transpose, of rows of a state's shape.

    Arguments:
        function: W, of any batch.
        like: a state, (B, ...).
    """

    def __init__(self, function: Map, like: Tensor) -> None:
        self.function, self.like = function, like.detach()
        self._graph: tuple[Tensor, Tensor] | None = None

    def __call__(self, u: Tensor) -> Tensor:
        if self._graph is None or len(self._graph[0]) != len(u):
            with torch.enable_grad():
                at = self.like.new_zeros(len(u), *self.like.shape[1:]).requires_grad_()
                self._graph = at, self.function(at)
        at, image = self._graph
        (product,) = torch.autograd.grad(
            image, at, u.to(image.dtype), retain_graph=True, create_graph=torch.is_grad_enabled()
        )
        return product


@dataclass(frozen=True)
class MonotoneInclusion(Equilibrium):
    """The equation z* = P(W z* + x): find the zero of (I - W) z - x + N(z), N the normal cone.

    P is the projection on a closed convex set, ReLU for the nonnegative orthant. There is one
    answer if A = I - W is strongly monotone, <A z, z> >= m ||z||^2 with m > 0, whatever ||W|| is.
    Its map is z -> P(W z + x), so that every other solver of an `Equilibrium` takes it too.

    Arguments:
        map: left out; derived from `linear` and `prox`.
        condition: (x, ...): x of the state's shape (B, ...), and what else the projection takes.
        linear: z -> W z; may be `Structured`.
        resolvent: alpha -> (v -> (I + alpha (I - W))^-1 v). Called once per solve, so that it may
            factorise. Needed by `PeacemanRachford` and `DouglasRachford`.
        prox: the projection P, v -> P(v, ...), given what stands behind x in the condition. The
            splittings use the same for every step size, which a proximal operator that is no
            projection would not allow.
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
    prox: Map = field(default=torch.relu, kw_only=True)
    moduli: Callable[[], Moduli] | None = field(default=None, kw_only=True)
    metric: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.linear is _derived:
            raise TypeError("MonotoneInclusion needs linear=, the map z -> W z.")
        check_tuple(self.condition)
        if not self.condition:
            raise ValueError("MonotoneInclusion needs condition=(x,), a tensor (B, ...).")
        if self.coupled:
            raise ValueError("W of a MonotoneInclusion acts on each row by itself; leave coupled.")
        if self.map is _derived:
            object.__setattr__(self, "map", Projected(self.linear, self.prox))
        bound = offered(self.linear, "lipschitz")
        if self.moduli is None and bound is not None:  # |<W z, z>| <= L ||z||^2
            object.__setattr__(self, "moduli", lambda: (1 - bound(), 1 + bound()))

    @property
    def functions(self) -> tuple[Map, ...]:
        return self.map, self.linear  # the splittings call the second alone

    @property
    def x(self) -> Tensor:
        """The condition."""
        return self.inputs[0]

    def image(self, z: Tensor) -> Tensor:
        """Evaluate W z + x, in z's dtype."""
        return (self.linear(z) + self.x).to(z.dtype)

    def project(self, v: Tensor) -> Tensor:
        """Evaluate P(v)."""
        return self.prox(v, *self.inputs[1:])

    def adjoint(self, z: Tensor, v: Tensor) -> MonotoneInclusion:
        """Return the inclusion w = D (W^T w + v), D the derivative of P at W z + x.

        With it u = W^T w + v is that of the implicit gradient, u = J^T u + v with J = D W. I - W^T
        has the moduli of I - W in the inverse metric, and D is the projection on some entries: so
        the splittings solve it at their proved rates, where u <- J^T u + v may diverge.

        Arguments:
            z: the root, (B, ...).
            v: of its shape.

        Raises:
            ValueError: P is not entry by entry a projection on an interval.
        """
        with torch.enable_grad():
            image = self.image(z.detach()).detach().requires_grad_()
            projected = self.project(image)
        # No two entries alike, so that one product tells a projection on entries from any other.
        probe = torch.linspace(1, 2, z.shape[1:].numel(), dtype=z.dtype, device=z.device)
        probe = probe.view(z.shape[1:]).expand_as(z)
        (on,) = torch.autograd.grad(projected, image, probe)
        kept = on != 0
        if not torch.equal(on, torch.where(kept, probe, 0)):
            raise ValueError(
                "the projection of this MonotoneInclusion does not clamp entry by entry, so its "
                "adjoint is none. Differentiate by Implicit(NewtonKrylov())."
            )
        inverse = self.resolvent
        return MonotoneInclusion(
            rowwise=True,
            condition=(v, kept.to(v.dtype)),
            linear=transposed(self.linear, z),
            resolvent=None if inverse is None else lambda a: transposed(inverse(a), z),
            prox=torch.mul,
            moduli=self.moduli,
            metric=None if self.metric is None else 1 / self.metric,
        )

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
        gap = self.project(self.image(z)) - z
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
