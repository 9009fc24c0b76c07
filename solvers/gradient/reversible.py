"""Backpropagation through steps that are taken back one by one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..driver import run
from ..norms import divisor, norm
from ..ode.runge_kutta import RungeKutta
from ..packing import pack
from ..picard import Picard
from ..problem import Equilibrium, InitialValue
from ..solution import Solution, V
from ..solver import Solver, named
from ..status import Status
from ..transforms import uncompiled
from .coupled import Coupled, CoupledFlow, CoupledPicard
from .graph import tied_to_nothing
from .path import tied
from .rows import usable

P = TypeVar("P", Equilibrium, InitialValue)


@dataclass(frozen=True)
class Reversible:
    """Differentiate every step, and take it back for that: memory does not grow with the steps.

    A solver's steps are taken by two copies of the state, each moved by what the other is, so
    that both can be computed from what they became. Of Picard(damping=beta)

        y <- (1 - beta) y + beta f(z),   z <- (1 - beta) z + beta f(y),

    and of the equal steps of a RungeKutta their counterpart, with beta the `coupling`. So the
    answer is that of these steps, also where autograd is off: the same root, and z(t1) to the same
    order, at two evaluations for each of the solver's own.

    The gradient is that of what was computed, but for rounding. Each step back amplifies it: by up
    to 1 / (1 - beta) for each copy that is drawn to the other, which of Picard are both, of a flow
    one. What comes of it is measured at the start, where both copies must end; few steps, a small
    beta or float64 keep it small.

    Arguments:
        coupling: beta of a flow, in (0, 1): towards 1 flows that contract stay stable for longer
            steps, and fewer steps can be taken back.
        tolerance: how far the copies may miss the start, relative to it or to the answer.

    Raises:
        TypeError: the solver is neither Picard nor RungeKutta with equal steps.
        ValueError: its damping is 1: such a step keeps nothing of where it came from.
        RuntimeError: in a backward pass, the start was missed by more than the tolerance.

    References:
        S. McCallum, K. Arora, J. Foster (2025), Reversible deep equilibrium models.
        S. McCallum, J. Foster (2024), Efficient, accurate and stable gradients for neural ODEs.
    """

    coupling: float = 0.1
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if not (0 < self.coupling < 1 and self.tolerance > 0):
            raise ValueError(
                "Reversible needs a coupling above 0 and below 1, and a tolerance above 0; got "
                f"{self.coupling} and {self.tolerance}."
            )

    @uncompiled
    def apply(
        self, problem: P, solver: Solver[P, Any], z0: V | Solution[V], *, record: bool = False
    ) -> Solution[V]:
        """Return the solution of the coupled steps, with their gradient attached to its value."""
        steps = self._coupled(solver)
        packed, start, unpack = pack(problem, z0)
        watched = torch.is_grad_enabled()
        with torch.no_grad():
            found = run(packed, steps, start.detach(), record=record, keep_states=watched)
        if watched:
            value = self._attach(packed, steps, start, found)
            found = replace(found, value=value, states=())
        return unpack(found)

    def misfit(self, solver: object) -> Exception | None:
        """Return why the steps of a solver cannot be taken back, or None."""
        if isinstance(solver, Picard) and solver.damping == 1:
            return ValueError(
                "Reversible takes damped steps back, and one of damping 1 keeps nothing of "
                "where it came from. Use Picard(damping=0.5)."
            )
        equal = isinstance(solver, RungeKutta) and not solver.tableau.error
        if equal or isinstance(solver, Picard):
            return None
        return TypeError(
            "Reversible takes back the steps of Picard(damping=...), or equal steps such as those "
            f"of RungeKutta(RK4); got {named(solver)}. Use another gradient with it."
        )

    def _coupled(self, solver: Any) -> Any:
        """Return the solver that takes the steps of another in their coupled form."""
        if (fault := self.misfit(solver)) is not None:
            raise fault
        if isinstance(solver, Picard):
            return CoupledPicard.of(solver)
        return CoupledFlow.of(solver, self.coupling)

    def _attach(self, problem: Any, solver: Any, start: Tensor, found: Solution[Tensor]) -> Tensor:
        """Return the value as a function of start, condition and parameters."""
        y = start.detach().clone()
        for index, state in found.states:
            y[index] = state.y
        if isinstance(problem, Equilibrium):
            rows = usable(problem, found)
        else:
            gone = found.status == Status.NONFINITE
            rows = (~gone).nonzero().squeeze(1) if bool(gone.any()) else None
        if rows is None and len(start):
            way = _Way(self, solver, start, found.value, y, found.steps)
            return tied(self, problem, start, found.value, way.back)
        if rows is None or len(rows) == 0:
            return tied_to_nothing(found.value, problem, start)
        z0, z, y, steps = (t.index_select(0, rows) for t in (start, found.value, y, found.steps))
        way = _Way(self, solver, z0, z, y, steps)
        part = tied(self, problem.rows(rows), z0, z, way.back)
        return found.value.index_copy(0, rows, part)


class _Way:
    """The way back of some samples from their answers to their starts.

    Arguments:
        rule: whose tolerance is kept.
        solver: whose steps are taken back.
        z0: the starts, (B, ...).
        z: the answers, (B, ...).
        y: their other copies, (B, ...).
        steps: how many each sample took, (B,).
    """

    def __init__(
        self, rule: Reversible, solver: Coupled, z0: Tensor, z: Tensor, y: Tensor, steps: Tensor
    ) -> None:
        self.rule, self.solver, self.steps = rule, solver, steps
        self.z0, self.z, self.y = z0.detach(), z, y

    def back(self, problem: Any, hidden: tuple[Tensor, ...], v: Tensor) -> list[Tensor]:
        """Return the gradients in z0 and all sources, as `tied` asks for them."""
        sources = (*(x for x in problem.inputs if x.requires_grad), *hidden)
        sums = [torch.zeros_like(x) for x in sources]
        pair: tuple[Tensor, ...] = self.z, self.y, v, torch.zeros_like(v)
        with torch.autocast(v.device.type, enabled=False):  # as in the loop
            for n in reversed(range(int(self.steps.max()))):
                rows = (self.steps > n).nonzero().squeeze(1)
                some = None if len(rows) == len(v) else rows
                step = _Step(problem, self.solver, n, sources, some)
                if some is None:
                    pair, more = step.back(*pair)
                else:
                    moved, more = step.back(*(t.index_select(0, rows) for t in pair))
                    pair = tuple(t.index_copy(0, rows, m) for t, m in zip(pair, moved, strict=True))
                sums = [total + x for total, x in zip(sums, more, strict=True)]
        z, y, vz, vy = pair
        self._check(z, y)
        return [vz + vy, *sums]

    def _check(self, z: Tensor, y: Tensor) -> None:
        """Raise RuntimeError unless the way led back to the starts."""
        missed = torch.maximum(norm(z - self.z0), norm(y - self.z0))
        share = missed / divisor(torch.maximum(norm(self.z0), norm(self.z)))
        if bool((share <= self.rule.tolerance).all()):
            return
        keep, _, hold = self.solver.weights
        raise RuntimeError(
            f"Reversible: {int(self.steps.max())} steps back missed the start by "
            f"{float(share.nan_to_num(nan=math.inf).max()):.1e} of its size (tolerance "
            f"{self.rule.tolerance:.0e}). Each amplifies rounding by up to "
            f"{1 / (keep * hold):.3g}, and a map in half precision, or one that draws at random, "
            "rounds coarsely. Take fewer steps, a smaller beta or float64, or use "
            "Unroll(checkpoint=...)."
        )


@dataclass(frozen=True)
class _Step:
    """One step, taken back.

    Arguments:
        problem: of all samples.
        solver: whose step it is.
        n: its number, 0 the first.
        sources: what gradients are wanted in beside the state.
        rows: the samples that took it, int64; None for all.
    """

    problem: Any
    solver: Coupled
    n: int
    sources: tuple[Tensor, ...]
    rows: Tensor | None

    def back(
        self, z: Tensor, y: Tensor, vz: Tensor, vy: Tensor
    ) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Return z, y and their cotangents before the step, and what it adds in the sources."""
        keep, cross, hold = self.solver.weights
        q, pulled, added = self._pull(1, y, vz)
        z, vy = (z - q) / hold, vy + pulled
        p, pulled, more = self._pull(0, z, vy)
        y, vz = (y - cross * z - p) / keep, hold * vz + cross * vy + pulled
        return (z, y, vz, keep * vy), [a + b for a, b in zip(added, more, strict=True)]

    def _pull(self, which: int, z: Tensor, v: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return what a move makes of z, and the products of v with its derivatives."""
        with torch.enable_grad():  # a part of the condition leads to the whole
            part = self.problem if self.rows is None else self.problem.rows(self.rows)
            at = z.detach().requires_grad_()
            out = self.solver.moves(part, self.n)[which](at)
        inputs = (at, *self.sources)
        if not out.requires_grad:
            return out, torch.zeros_like(z), [torch.zeros_like(x) for x in self.sources]
        # What lies between two sources is not of this step, and is gone through once more.
        pulled = torch.autograd.grad(
            out, inputs, v, retain_graph=True, materialize_grads=True, allow_unused=True
        )
        return out.detach(), pulled[0], list(pulled[1:])
