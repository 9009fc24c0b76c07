"""States of a flow at chosen times, and times that are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .gradient import Gradient, Unroll
from .norms import expand, norm
from .ode import between
from .ode.clock import keeper, precision
from .packing import pack
from .problem import InitialValue, Map, check_time
from .solution import Solution, Trajectory, V
from .solver import Solver, named
from .status import Status
from .structure import Wrapped
from .transforms import uncompiled

Times = Sequence[float] | Tensor
"""Numbers, or a tensor (T,) that may require a gradient."""


@uncompiled
def solve_at(
    problem: InitialValue,
    solver: Solver[InitialValue, Any],
    z0: V | Solution[V],
    times: Times,
    gradient: Gradient[InitialValue] = Unroll(),  # noqa: B008  (frozen)
    *,
    interpolate: bool = False,
) -> Solution[V]:
    """Return the solution at the last of the times; `trajectory` holds z at all, (T, B, ...).

    Both are differentiable in z0, the condition, the parameters and the times:

        dz(t) / dt = f(t, z(t)).

    Each way from one time to the next is a solve of its own, as exact as the solver's tolerance, by
    any solver and rule. A sample that fails on one keeps its status, and holds its state from then
    on.

    Arguments:
        problem: the flow, from t0 on.
        solver: an integrator.
        z0: the state at t0, (B, ...), as in `solve`.
        times: in [t0, t1], in the order of the flow, each once; t0 itself may be the first.
        gradient: `Unroll()`, `Adjoint()` or `Reversible()`.
        interpolate: integrate once to the last time, and take the states from cubics between the
            solver's own steps (`solvers.ode.between`): two evaluations a time, for many times close
            to each other. `Unroll` alone differentiates it.

    Raises:
        ValueError: a time is not as said; names it.
        TypeError: the states between steps are asked for, and the rule does not differentiate them.
    """
    ends = check_times(times, problem.t0, problem.t1)
    learned = times if isinstance(times, Tensor) and times.requires_grad else None
    if interpolate and not isinstance(gradient, Unroll):
        raise TypeError(
            f"{type(gradient).__name__} keeps no states between which to interpolate: use "
            "Unroll(), or interpolate=False."
        )
    packed, start, unpack = pack(problem, z0)
    if interpolate and ends != [problem.t0] and len(start):
        return unpack(_between(packed, solver, start, ends, learned, gradient))
    zero = torch.zeros(len(start), dtype=torch.int64, device=start.device)
    now = Solution(
        start, (zero + Status.CONVERGED).to(torch.int8), zero, zero, norm(start[:, :0].detach())
    )
    kept, begin = list[Solution[Tensor]](), problem.t0
    if learned is not None and ends[0] == begin:  # z(t) at t = t0 moves with t, as at any other
        moved = (learned[0] - learned[0].detach()).to(start)
        slope = packed(start.new_tensor(begin), start)
        now = replace(now, value=start + moved * slope, evals=now.evals + 1)
    for k, end in enumerate(ends):
        if end != begin and bool(now.converged.any()):  # t0 may be the first of the times
            segment = replace(packed, t0=begin, t1=end)
            if learned is not None:
                segment = stretched(segment, learned[k - 1] if k else begin, learned[k])
            now = _onward(now, gradient.apply(segment, solver, now.value))
        kept.append(now)
        begin = end
    states = torch.stack([each.value for each in kept])
    residual = torch.stack([each.residual for each in kept])
    evals = torch.stack([each.evals.amax() if len(start) else each.evals.sum() for each in kept])
    return unpack(replace(now, trajectory=Trajectory(states, residual, evals, _rows(ends, start))))


def _onward(now: Solution[Tensor], found: Solution[Tensor]) -> Solution[Tensor]:
    """Return the solution of both ways; a sample that failed on the first has not gone the second.

    Arguments:
        now: where the first way ended.
        found: the second.
    """
    good = now.converged
    value, left = found.value, found.residual
    if not bool(good.all()):
        value = torch.where(expand(good, value), value, now.value)
        left = torch.where(good, left, now.residual)
    return replace(
        found,
        value=value,
        status=torch.where(good, found.status, now.status),
        steps=now.steps + good * found.steps,
        evals=now.evals + good * found.evals,
        residual=left,
        checks=now.checks + found.checks,
        work=None if now.work is None or found.work is None else now.work + found.work,
    )


def _between(
    problem: InitialValue,
    solver: Solver[InitialValue, Any],
    start: Tensor,
    ends: list[float],
    learned: Tensor | None,
    gradient: Gradient[InitialValue],
) -> Solution[Tensor]:
    """Return the solution at the last of the times, with the states at all from one solve."""
    whole = replace(problem, t1=ends[-1])
    found = gradient.apply(whole, solver, start, record=True)
    path = found.trajectory
    assert path is not None  # it was asked for
    times = _rows(ends, start)
    wanted = times[:, 0] if learned is None else learned
    states = between(whole, path, wanted, hold=True)
    evals = path.evals.new_full((len(ends),), int(path.evals[-1])) + 2 * len(ends)
    return replace(
        found,
        value=states[-1],
        evals=found.evals + 2 * len(ends),
        trajectory=Trajectory(states, found.residual.expand(len(ends), -1), evals, times),
    )


def _rows(times: list[float], z: Tensor) -> Tensor:
    """Return times as a tensor of each sample's, (T, B)."""
    found = torch.tensor(times, dtype=precision(z.device), device=keeper(z.device))
    return found[:, None].expand(-1, len(z))


def check_times(times: Times, t0: float, t1: float) -> list[float]:
    """Return times as numbers, or raise unless they are in [t0, t1], in its order, each once.

    Raises:
        TypeError: they are no numbers.
        ValueError: says which is wrong.
    """
    if isinstance(times, Tensor):
        if times.dim() != 1:
            raise ValueError(
                f"times must be one after the other, (T,); got shape {tuple(times.shape)}. All "
                "samples share them."
            )
        times = times.detach().cpu().double().tolist()  # MPS has no double precision
    if not isinstance(times, Sequence):
        raise TypeError(f"times must be numbers in a sequence, or a tensor; got {named(times)}.")
    found: list[float] = []
    sign = 1 if t1 > t0 else -1
    for time in times:
        check_time("times", time)
        time = float(time)
        if not sign * t0 <= sign * time <= sign * t1:
            raise ValueError(f"times must be in [t0, t1] = [{t0:g}, {t1:g}]; got {time:g}.")
        if found and sign * time <= sign * found[-1]:
            told = "twice" if time == found[-1] else f"after {found[-1]:g}"
            raise ValueError(
                f"times must be in the order of the flow, each once; got {time:g} {told}. "
                "torch.unique sorts them, and its return_inverse says where each went."
            )
        found.append(time)
    if not found:
        raise ValueError("times must be one at least; got none.")
    return found


def stretched(problem: InitialValue, t0: float | Tensor, t1: float | Tensor) -> InitialValue:
    """Return the same problem, its answer differentiable in t0 and t1.

    With r = (t1 - t0) / (its own t1 - t0), which is 1, and s its own time, it integrates

        dz/ds = r f(t0 + r (s - t0), z),

    the same numbers by the same steps; each rule differentiates it in r, to any order.

    Arguments:
        problem: on numbers.
        t0: the same number, or a 0-d tensor of it.
        t1: likewise.
    """
    field = _Stretched(problem.field, problem.t0, problem.t1, t0, t1)
    return replace(problem, field=field)


class _Stretched(Wrapped):
    """A field on an interval whose ends have gradients."""

    def __init__(
        self, function: Map, begin: float, end: float, t0: float | Tensor, t1: float | Tensor
    ) -> None:
        self.function, self.begin = function, begin
        zero = [_moved(time) for time in (t0, t1)]  # 0 each, with the gradient of a time
        self.shift, self.stretch = zero[0], (zero[1] - zero[0]) / (end - begin)

    def __call__(self, s: Tensor, z: Tensor, *condition: Tensor) -> Tensor:
        moved = self.shift + (s.to(precision(s.device)) - self.begin) * self.stretch
        slope: Any = self.function(s + torch.as_tensor(moved).to(s), z, *condition)
        if isinstance(slope, tuple):
            return tuple(map(self._stretched, slope))  # type: ignore[return-value]
        return self._stretched(slope)

    def _stretched(self, slope: Tensor) -> Tensor:
        return slope + slope * torch.as_tensor(self.stretch).to(slope)


def _moved(time: float | Tensor) -> float | Tensor:
    return time - time.detach() if isinstance(time, Tensor) else 0.0
