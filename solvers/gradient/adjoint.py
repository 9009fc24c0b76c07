"""The adjoint method for initial value problems."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..caller import warn_caller
from ..driver import run
from ..norms import TINY, divisor
from ..ode import ODE
from ..ode.clock import Clock, Steps
from ..ode.initial_value import SCIPY, SLIVER, given_up
from ..packing import pack
from ..problem import Counter, InitialValue
from ..solution import Solution, V
from ..solver import Solver
from ..transforms import uncompiled
from ..twice import by_formula
from .graph import tied_to_nothing
from .path import tied
from .rows import BackwardWarning

MARKS = 32
"""States of the forward pass that are kept at most, at which the way back begins anew: all of its
steps, or each second, fourth, ... (of SciPy, whose steps are not seen, none at first)."""
CUTS = 8  # that a way is cut into where no steps are seen

DRIFT = 100.0  # tolerances that z may miss a mark by, before its way is cut
FAR = 0.1  # of its size: beyond, the gradient is called approximate
ROUNDING = 10.0  # units in the last place; no tolerance is taken to be smaller
LONGER = 1.3  # times the last step: what the next one is tried with

Mark: TypeAlias = tuple[float, Tensor]
"""s = t - t0, and z there, (B, ...)."""


@dataclass(frozen=True)
class Adjoint:
    """Integrate the adjoint equation backwards in time: memory does not grow with the steps.

        da/dt = -(df/dz)^T a,   dL/dparameter = -integral of a^T df/dparameter from t1 to t0.

    z is integrated backwards with a, so the gradient is as exact as the tolerance. Where the flow
    contracts the way back expands, and z leaves the states that it came from. So it begins anew
    where the forward pass's steps began: 32 of their states are kept at most, and on a longer way
    that misses one, the steps between two are taken again. A `BackwardWarning` tells of samples
    that miss even so; one on which the integrator gives up has no gradient. Parameters that the
    field closes over are found by themselves.

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
            raise _unfit(type(problem), solver)
        packed, start, unpack = pack(problem, z0)
        with torch.no_grad():
            seen = solver if solver.method == SCIPY else solver.recorded(MARKS)
            found = run(packed, solver if record else seen, start, record=record)
        marks = _marks(packed, start.detach(), found)
        if not record:
            found = replace(found, trajectory=None)
        if torch.is_grad_enabled():
            good = found.converged.nonzero().squeeze(1)
            if len(good) == 0:
                value = tied_to_nothing(found.value, packed, start)
            elif len(good) == len(start):
                value = _attach(self, packed, solver, start, marks)
            else:
                part = _attach(self, packed.rows(good), solver, start[good], _rows(marks, good))
                value = found.value.index_copy(0, good, part)
            found = replace(found, value=value)
        return unpack(found)

    def misfit(self, solver: Solver[Any, Any]) -> Exception | None:
        """Return why no adjoint equation is integrated by a solver, or None."""
        return None if isinstance(solver, ODE) else _unfit(solver.answers, solver)


def _unfit(kind: type, solver: object) -> TypeError:
    instead = "Unroll" if issubclass(kind, InitialValue) else "Implicit"
    return TypeError(
        f"Adjoint differentiates an InitialValue integrated by ODE(); got {kind.__name__} and "
        f"{type(solver).__name__}. Use {instead}()."
    )


def _marks(problem: InitialValue, z0: Tensor, found: Solution[Tensor]) -> list[Mark]:
    """Return the states that were recorded, the two ends where samples went apart."""
    path = found.trajectory
    if path is None or path.time is None or bool((path.time != path.time[:, :1]).any()):
        return [(0.0, z0), (Clock(problem).span, found.value)]
    return list(zip((path.time[:, 0] - problem.t0).tolist(), path.z, strict=True))


def _rows(marks: list[Mark], index: Tensor) -> list[Mark]:
    return [(s, z.index_select(0, index)) for s, z in marks]


def _attach(
    rule: Adjoint, problem: InitialValue, solver: ODE, z0: Tensor, marks: list[Mark]
) -> Tensor:
    """Return z(t1), the last of the marks, as a function of start, condition and parameters."""

    def back(problem: InitialValue, hidden: tuple[Tensor, ...], v: Tensor) -> list[Tensor]:
        values, lost, missed = _Way(problem, solver, hidden).back(marks, v)
        if lost + missed:
            warn_caller(
                f"Adjoint: integrated back from t1 to t0, {lost + missed} of {len(v)} samples miss "
                f"the states that they came from ({lost} of them get no gradient, the others an "
                "approximate one). Use Unroll(), or another tolerance.",
                BackwardWarning,
            )
        return values

    return tied(rule, problem.wrapped(by_formula), z0, marks[-1][1], back)


class _Way:
    """The way back of some samples from z(t1) to z(t0).

    As a field, the rates of z, of its costate a and of what is summed: f and -a^T df/d(z, sources).

    Arguments:
        problem: of these samples; the tensors of its condition lead to nothing else.
        solver: the integrator.
        hidden: the parameters that the field closes over.
    """

    def __init__(self, problem: InitialValue, solver: ODE, hidden: tuple[Tensor, ...]) -> None:
        self.problem, self.solver, self.hidden = problem, solver, hidden
        self.sources = (*(x for x in problem.inputs if x.requires_grad), *hidden)
        self.clock = Clock(problem)
        self.h = math.inf  # the last step

    def __call__(self, s: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            z = state[0].detach().requires_grad_()
            rate, inputs = self.clock(s, z), (z, *self.sources)
            found: tuple[Tensor | None, ...] = (None,) * len(inputs)
            if rate.requires_grad:
                found = torch.autograd.grad(
                    rate, inputs, -state[1], allow_unused=True, retain_graph=True
                )
        pulls = zip(found, inputs, strict=True)
        return rate.detach(), *(torch.zeros_like(x) if g is None else g for g, x in pulls)

    def callback_step(self, s: Tensor, state: tuple[Tensor, ...], h: Tensor) -> None:
        """Be told of a step that begins."""
        self.h = abs(float(h))

    def back(self, marks: list[Mark], v: Tensor) -> tuple[list[Tensor], int, int]:
        """Return the gradients in z0 and all sources, and how many samples got none, or missed.

        A batch that fails is split.

        Arguments:
            marks: states of the forward pass.
            v: dL/dz(t1), (B, ...).
        """
        sums = [torch.zeros_like(x) for x in self.sources]
        gradients, away = self._through(marks, [v, *sums])
        if gradients:
            far = max(DRIFT, FAR / max(self.solver.rtol, TINY))
            return gradients, 0, int((~(away <= far)).sum())
        if len(v) == 1:
            return [torch.zeros_like(v), *sums], 1, 0
        halves = []
        for index in torch.arange(len(v), device=v.device).chunk(2):
            with torch.enable_grad():  # so they require a gradient where the whole tensors do
                part = _Way(self.problem.rows(index), self.solver, self.hidden)
            halves.append(part.back(_rows(marks, index), v[index]))
        (one, lost, missed), (two, lost_too, missed_too) = halves
        apart = len(one) - len(self.hidden)  # of each sample; the rest all share
        joined = [torch.cat(pair) for pair in zip(one[:apart], two[:apart], strict=True)]
        shared = [a + b for a, b in zip(one[apart:], two[apart:], strict=True)]
        return [*joined, *shared], lost + lost_too, missed + missed_too

    def _through(self, marks: list[Mark], costate: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Return the costate at the first of the marks, [] if it is lost, and what z missed, (B,).

        Once z misses a mark, the ways between those before are cut at each step.

        Arguments:
            marks: at each of them z begins anew.
            costate: dL/dz at the last, and what is summed so far.
        """
        most, cut = torch.zeros(len(costate[0]), device=costate[0].device), False
        for before, after in zip(marks[-2::-1], marks[:0:-1], strict=True):
            found, away = ([], most) if cut else self._between(before, after, costate)
            if cut or not bool((away <= DRIFT).all()):
                within = self._within(before, after)
                cut = len(within) > 1
                if cut:
                    found, away = self._through([*within, after], costate)
                if not found:
                    return [], away
            costate, most = found, torch.maximum(most, away.to(most))
        return costate, most

    def _between(
        self, before: Mark, after: Mark, costate: list[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """Return the costate at a mark from that at the next, [] if lost, and what z missed."""
        (end, wanted), (begin, came) = before, after
        steps = math.ceil(abs(end - begin) / (LONGER * self.h)) or 1
        h = (1 + SLIVER) * abs(end - begin) / steps
        try:
            ends = self.solver.integrate(self, (came, *costate), (begin, end), h)
        except AssertionError as error:
            given_up(error)
            return [], came.new_full((len(came),), math.inf)
        z, *found = (each[-1] for each in ends)
        smallest = ROUNDING * torch.finfo(z.dtype).eps
        size = torch.maximum(wanted.abs(), came.abs()).flatten(1)
        size = torch.maximum(size, size.amax(1, keepdim=True) * 0.1)
        tolerance = self.solver.atol + max(self.solver.rtol, smallest) * size
        ratio = (z - wanted).flatten(1) / divisor(tolerance)
        return found, ratio.square().mean(1).sqrt()

    def _within(self, before: Mark, after: Mark) -> list[Mark]:
        """Return the first mark and those before the second, as many as the integrator has."""
        (begin, z), (end, _) = before, after
        if self.solver.method != SCIPY:
            # In one step, if that will do; from one so long the field may not be finite.
            for first in ((1 + SLIVER) * abs(end - begin), None):
                watch = Steps(self.problem, Counter(self.problem.field), MARKS)
                try:
                    self.solver.integrate(watch, z, (begin, end), first)
                except AssertionError as error:
                    given_up(error)
                else:
                    return [(float(time[0]) - watch.t0, z) for time, z, _ in watch.seen]
            return [before]
        if abs(end - begin) <= abs(self.clock.span) / MARKS:
            return [before]
        times = [begin + (end - begin) * k / CUTS for k in range(CUTS + 1)]
        return list(zip(times, self.solver.integrate(self.clock, z, times), strict=True))[:-1]
