"""The adjoint method for initial value problems."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import torch
from torch import Tensor

from ..caller import warn_caller
from ..driver import run
from ..norms import TINY
from ..ode import ODE
from ..ode.clock import Clock
from ..ode.initial_value import given_up
from ..packing import pack
from ..problem import InitialValue
from ..solution import Solution, V
from ..transforms import check_untransformed, uncompiled
from ..twice import by_formula
from .function import pulled
from .graph import check_same, closure, cut, detached, evaluated, tied_to_nothing
from .rows import BackwardWarning

PARTS = (1, 4, 16, 64)
"""Parts that the way back is cut into, each begun at the state that the forward pass had there:
the next number where z, integrated back, misses the state that it came from."""

DRIFT = 100.0  # tolerances that z may miss by: the sum of a part's local errors, and some
ROUNDING = 10.0  # units in the last place; no tolerance is taken to be smaller

ONCE = "The gradient of Adjoint has no derivative itself; use Unroll() for a second one."


@dataclass(frozen=True)
class Adjoint:
    """Integrate the adjoint equation backwards in time: memory does not grow with the steps.

        da/dt = -(df/dz)^T a,   dL/dparameter = -integral of a^T df/dparameter from t1 to t0.

    z is integrated backwards with a, so the gradient is as exact as the tolerance. Where the flow
    contracts the way back expands, and z misses the start that it came from. That is seen: the
    way is then cut into 4, 16 or 64 parts that begin at states of the forward pass, which is
    done again for them. A `BackwardWarning` tells of samples that miss even so; one on which the
    integrator gives up has no gradient. Parameters that the field closes over are found by
    themselves.

    References:
        R. T. Q. Chen et al. (2018), Neural ordinary differential equations.
        A. Gholami, K. Keutzer, G. Biros (2019), ANODE: unconditionally accurate memory-efficient
        gradients for neural ODEs.
    """

    @uncompiled
    def apply(
        self, problem: InitialValue, solver: ODE, z0: V | Solution[V], *, record: bool = False
    ) -> Solution[V]:
        """Return the solution with the adjoint gradient attached to its value."""
        if not isinstance(problem, InitialValue) or not isinstance(solver, ODE):
            instead = "Unroll" if isinstance(problem, InitialValue) else "Implicit"
            raise TypeError(
                "Adjoint differentiates an InitialValue integrated by ODE(); got "
                f"{type(problem).__name__} and {type(solver).__name__}. Use {instead}()."
            )
        packed, start, unpack = pack(problem, z0)
        with torch.no_grad():
            found = run(packed, solver, start, record=record)
        if torch.is_grad_enabled():
            good = found.converged.nonzero().squeeze(1)
            if len(good) == 0:
                value = tied_to_nothing(found.value, packed, start)
            elif len(good) == len(start):
                value = _attach(packed, solver, start, found.value)
            else:
                part = _attach(packed.rows(good), solver, start[good], found.value[good])
                value = found.value.index_copy(0, good, part)
            found = replace(found, value=value)
        return unpack(found)


def _attach(problem: InitialValue, solver: ODE, z0: Tensor, z1: Tensor) -> Tensor:
    """Return z(t1) as a function of its start, condition and parameters."""
    originals = (z0, *problem.inputs)
    # Reached through the condition, a parameter shared with what computed it would count twice.
    copies = detached(originals)
    problem = replace(problem.wrapped(by_formula), condition=copies[1:])
    clock = Clock(problem)

    def evaluate() -> Tensor:
        return clock(z0.new_zeros(()), copies[0])

    image, closed = evaluated(evaluate)
    before = closure(image, *copies)
    known = {id(x) for x in copies}
    hidden = tuple(p for p in closed if id(p) not in known)
    del image, closed
    places = [0, *(k for k, x in enumerate((*copies, *hidden)) if k and x.requires_grad)]

    def refuse(v: Tensor, saved: object) -> NoReturn:
        raise RuntimeError(ONCE)

    def pull(v: Tensor, saved: Callable[[], tuple[Tensor, ...]]) -> Sequence[Tensor | None]:
        check_untransformed(v)
        sources = saved()
        with torch.enable_grad():  # the field is evaluated again
            check_same(before, closure(evaluate(), *copies))
        with torch.no_grad(), cut(hidden):
            way = _Way(problem, solver, hidden)
            found = way.back(copies[0].detach(), z1, v, PARTS)
        found.tell(len(z1))
        values: Sequence[Tensor] = found.gradients
        if torch.is_grad_enabled():  # create_graph
            values = [pulled(value, (*sources, v), refuse) for value in values]
        kept = dict(zip(places, values, strict=True))
        return [kept.get(k) for k in range(len(sources))]

    return pulled(z1, (*originals, *hidden), pull)


@dataclass(frozen=True)
class _Found:
    """What came of the way back.

    Arguments:
        gradients: in z0, in each tensor of the condition that has one, and in the parameters.
        lost: samples that have no gradient.
        missed: samples whose z is away from the state that it came from.
    """

    gradients: list[Tensor]
    lost: int = 0
    missed: int = 0

    def tell(self, batch: int) -> None:
        """Warn of the samples of a batch whose gradient is not exact."""
        if self.lost + self.missed:
            warn_caller(
                f"Adjoint: integrated back from t1 to t0 in {PARTS[-1]} parts, "
                f"{self.lost + self.missed} of {batch} samples miss the states that they came "
                f"from ({self.lost} of them get no gradient, the others an approximate one). "
                "Use Unroll(), or another tolerance.",
                BackwardWarning,
            )


@dataclass(frozen=True)
class _Way:
    """The way back from z(t1) to z(t0) of some samples.

    Arguments:
        problem: of these samples; the tensors of its condition lead to nothing else.
        solver: the integrator.
        hidden: the parameters that the field closes over.
    """

    problem: InitialValue
    solver: ODE
    hidden: tuple[Tensor, ...]

    def back(self, z0: Tensor, z1: Tensor, v: Tensor, tries: Sequence[int]) -> _Found:
        """Return the gradients for v = dL/dz(t1); a batch that fails is split by sample.

        Arguments:
            z0: the start, (B, ...).
            z1: the answer, (B, ...).
            v: (B, ...).
            tries: numbers of parts.
        """
        for parts in tries:
            try:
                gradients, drift = self._integrate(z0, z1, v, parts)
            except AssertionError as error:
                given_up(error)
                continue
            missed = int((~(drift <= DRIFT)).sum())
            if missed == 0 or (parts == tries[-1] and all(x.isfinite().all() for x in gradients)):
                return _Found(gradients, missed=missed)
        if len(z0) == 1:
            return _Found([torch.zeros_like(x) for x in (z0, *self._sources)], lost=1)
        one, two = (
            self._rows(index).back(z0[index], z1[index], v[index], tries[-1:])
            for index in torch.arange(len(z0), device=z0.device).chunk(2)
        )
        apart = len(one.gradients) - len(self.hidden)  # of each sample; the rest all share
        gradients = [
            torch.cat((a, b)) if k < apart else a + b
            for k, (a, b) in enumerate(zip(one.gradients, two.gradients, strict=True))
        ]
        return _Found(gradients, one.lost + two.lost, one.missed + two.missed)

    def _rows(self, index: Tensor) -> _Way:
        with torch.enable_grad():  # so they require a gradient where the whole tensors do
            return replace(self, problem=self.problem.rows(index))

    @property
    def _sources(self) -> tuple[Tensor, ...]:
        return (*(x for x in self.problem.inputs if x.requires_grad), *self.hidden)

    def _integrate(
        self, z0: Tensor, z1: Tensor, v: Tensor, parts: int
    ) -> tuple[list[Tensor], Tensor]:
        """Return the gradients, and by how many tolerances each sample misses at most, (B,)."""
        clock, sources = Clock(self.problem), self._sources

        def back(s: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                z = state[0].detach().requires_grad_()
                rate, inputs = clock(s, z), (z, *sources)
                found: tuple[Tensor | None, ...] = (None,) * len(inputs)
                if rate.requires_grad:
                    found = torch.autograd.grad(
                        rate, inputs, -state[1], allow_unused=True, retain_graph=True
                    )
            pulls = zip(found, inputs, strict=True)
            return rate.detach(), *(torch.zeros_like(x) if g is None else g for g, x in pulls)

        times, states = clock.times, [z0, z1]
        if parts > 1:
            times = self.solver.cuts(clock.span, parts)
            states = [*self.solver.integrate(clock, z0, times)[:-1], z1]
        summed = tuple(torch.zeros_like(x) for x in sources)
        drift = z0.new_zeros(len(z0))
        for k in range(len(times) - 1, 0, -1):
            state = (states[k], v, *summed)
            ends = self.solver.integrate(back, state, (times[k], times[k - 1]))
            z, v, *sums = (end[-1] for end in ends)
            summed = tuple(sums)
            drift = torch.maximum(drift, self._miss(z, states[k - 1], states[k]))
        return [v, *summed], drift

    def _miss(self, z: Tensor, wanted: Tensor, came: Tensor) -> Tensor:
        """Return how many tolerances z is away from the state that it came from, (B,)."""
        smallest = ROUNDING * torch.finfo(z.dtype).eps
        size = torch.maximum(wanted.abs(), came.abs()).flatten(1)
        size = torch.maximum(size, size.amax(1, keepdim=True) * 0.1)
        tolerance = self.solver.atol + max(self.solver.rtol, smallest) * size
        ratio = (z - wanted).flatten(1) / tolerance.clamp_min(TINY)
        return ratio.square().mean(1).sqrt()
