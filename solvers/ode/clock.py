"""A field in a time of its own, which starts at 0 and is kept in double precision."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ..problem import Counter, InitialValue

Row: TypeAlias = tuple[Tensor, Tensor, int]
"""Each sample's time, float64 (B,), its state, (B, ...), and the evaluations made so far."""

SINGLE = ("mps",)  # devices without double precision
SAMPLES = 32  # of a path whose steps are not seen


def precision(device: torch.device) -> torch.dtype:
    """Return the dtype that times have on a device."""
    return torch.float32 if device.type in SINGLE else torch.float64


def keeper(device: torch.device) -> torch.device:
    """Return the device that keeps times in double precision: the same one, where it can."""
    return torch.device("cpu") if device.type in SINGLE else device


class Clock:
    """The field of a problem as a function of s = t - t0.

    Single precision does not tell 59000.31 from 59000.3, but it tells 0.01 from 0: torchdiffeq,
    which rounds times to the state's precision, is right in s, whatever the calendar says. The
    field receives t = t0 + s, summed in double precision, in the state's dtype.
    """

    def __init__(self, problem: InitialValue) -> None:
        self.problem = problem
        self.t0 = float(problem.t0)
        self.span = float(problem.t1) - self.t0

    def __call__(self, s: Tensor, z: Tensor) -> Tensor:
        if self.t0 != 0:
            s = s.to(keeper(s.device), torch.float64) + self.t0
        return self.problem(s.to(z), z)

    @property
    def times(self) -> list[float]:
        """Return the s at which the integrator is asked for z."""
        return [0.0, self.span]

    def path(self, found: Tensor) -> list[Row]:
        """Return the way to `found`, z at the `times`, (T, B, ...); [] as none is kept."""
        return []

    def stopped(self, z0: Tensor) -> list[Row]:
        """Return the way of samples that the integrator gave up: they hold their start."""
        return []


class Bounded:
    """A clock that runs out, for an integrator that would go on for ever."""

    def __init__(self, clock: Callable[..., Any], evals: int) -> None:
        self.clock = clock
        self.left = evals

    def __call__(self, s: Tensor, z: Any) -> Any:
        if self.left == 0:
            raise AssertionError("max_num_steps exceeded")  # as torchdiffeq says
        self.left -= 1
        return self.clock(s, z)


class Recorder(Clock):
    """A clock that keeps states on the way, and changes none.

    Arguments:
        problem: one whose field `counter` counts.
        counter: of the field.
    """

    def __init__(self, problem: InitialValue, counter: Counter) -> None:
        super().__init__(problem)
        self.counter = counter

    def stopped(self, z0: Tensor) -> list[Row]:
        return [self.row(0.0, z0, evals) for evals in (0, self.counter.count)]

    def row(self, s: float | Tensor, z: Tensor, evals: int) -> Row:
        """Return the row of a state at s, which moves with z where steps are differentiated."""
        s = torch.as_tensor(s, dtype=torch.float64, device=keeper(z.device))
        return (self.t0 + s).expand(z.shape[:1]), z, evals


class Steps(Recorder):
    """The states at which an integrator's steps begin, as torchdiffeq tells of them.

    Arguments:
        most: of more steps than this, keep each second, each fourth, ...
    """

    def __init__(self, problem: InitialValue, counter: Counter, most: float = math.inf) -> None:
        super().__init__(problem, counter)
        self.most, self.every = most, 1
        self.begun: dict[float, None] = {}
        self.seen: list[Row] = []

    def callback_step(self, s: Tensor, z: Tensor, h: Tensor) -> None:
        """Be told of a step that begins: again, where one was rejected."""
        at = float(s.detach())  # Unroll differentiates the sizes of steps as well
        if at in self.begun:
            return
        if len(self.begun) % self.every == 0:
            self.seen.append(self.row(s, z, self.counter.count))
        self.begun[at] = None
        if len(self.seen) > self.most:
            del self.seen[1::2]
            self.every *= 2

    def path(self, found: Tensor) -> list[Row]:
        (time, z, _), *later = self.seen
        return [(time, z, 0), *later, self.row(self.span, found[-1], self.counter.count)]


class Samples(Recorder):
    """States at even times, of an integrator that interpolates but tells nothing of its steps."""

    def __init__(self, problem: InitialValue, counter: Counter) -> None:
        super().__init__(problem, counter)
        self.calls: list[float] = []

    def __call__(self, s: Tensor, z: Tensor) -> Tensor:
        self.calls.append(abs(float(s)))
        return super().__call__(s, z)

    @property
    def times(self) -> list[float]:
        return [self.span * k / SAMPLES for k in range(SAMPLES + 1)]

    def path(self, found: Tensor) -> list[Row]:
        calls = sorted(self.calls)
        evals = [bisect(calls, abs(s)) for s in self.times]
        evals[0], evals[-1] = 0, self.counter.count
        return [self.row(*each) for each in zip(self.times, found, evals, strict=True)]


def beside(paths: list[list[Row]]) -> list[Row]:
    """Return the path of the samples of all of these; one that has ended stays where it is."""
    longest = max(map(len, paths))
    padded = [[*path, *path[-1:] * (longest - len(path))] for path in paths]
    return [
        (torch.cat(times), torch.cat(states), max(evals))
        for times, states, evals in (zip(*row, strict=True) for row in zip(*padded, strict=True))
    ]
