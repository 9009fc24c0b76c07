"""What one training step takes: evaluations there and back, seconds, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from solvers import Gradient, Solution, Solver
from solvers.structure import Map, Wrapped

from ..data.batches import Batch
from ..machine import peak_memory
from ..training import Run, Tally

WARM = 2
"""Steps that are not counted: the first one makes the optimiser's state."""


@dataclass(frozen=True)
class Step:
    """The figures of one training step.

    Arguments:
        seconds: the median.
        forward: evaluations of the map or field, mean over the images.
        backward: products with the transpose of its Jacobian, each for a whole batch. One costs
            about two evaluations, and each part of a step (`Run.parts`) has its own: the mean over
            the parts. None where the layer has no equation.
        peak_mib: memory at its peak, in MiB, beyond the model and the images.
        steps: how many were timed.
    """

    seconds: float
    forward: float
    backward: float | None
    peak_mib: float
    steps: int


def measure_step(run: Run, *, most: int = 20, seconds: float = 10.0) -> Step:
    """Measure the steps of a run as the trainer takes them; its model learns meanwhile.

    Arguments:
        run: one that nothing else is done with.
        most: steps to time.
        seconds: no further step begins after so long.
    """
    layer, tally = run.model.layer, _Products()
    rule = layer.gradient
    layer.gradient = _Counted(rule, tally)
    peak = peak_memory(run.accelerator.device)
    batches, times, begun = _full_batches(run), list[float](), 0.0
    for k in range(WARM + most):
        if k == WARM:
            run.tally, tally.calls, begun = Tally(), 0, time.perf_counter()
        step = next(batches)
        since = time.perf_counter()
        run.learn(step)
        if run.accelerator.device.type == "cuda":
            torch.cuda.synchronize(run.accelerator.device)
        times.append(time.perf_counter() - since)
        if k > WARM and time.perf_counter() - begun > seconds:
            break
    layer.gradient = rule
    timed = times[WARM:]
    return Step(
        seconds=statistics.median(timed),
        forward=run.tally.means()["nfe"],
        backward=tally.calls / (len(timed) * run.turns) if tally.used else None,
        peak_mib=peak(),
        steps=len(timed),
    )


def _full_batches(run: Run) -> Iterator[list[Batch]]:
    """Yield steps for ever; the last batch of an epoch, which is not full, counts only alone."""
    while True:
        run.place = replace(run.place, batch=0)
        for k, step in enumerate(run.batches()):
            if k == 0 or len(step[0][0]) == run.config.batch:
                yield step


class _Products:
    """How many cotangents came to the values of a map."""

    def __init__(self) -> None:
        self.calls = 0
        self.used = False

    def add(self, cotangent: Tensor) -> None:
        self.calls += 1


@dataclass(frozen=True)
class _Counted:
    """A gradient rule whose products with the Jacobian are counted."""

    rule: Gradient[Any]
    tally: _Products

    def apply(
        self, problem: Any, solver: Solver[Any, Any], z0: Any, *, record: bool = False
    ) -> Solution[Any]:
        """Return the rule's solution."""
        told = problem.wrapped(lambda function: _Told(function, self.tally))
        return self.rule.apply(told, solver, z0, record=record)


class _Told(Wrapped):
    """A map that tells when a cotangent comes to its value."""

    def __init__(self, function: Map, tally: _Products) -> None:
        self.function = function
        self.tally = tally

    def __call__(self, *args: Tensor) -> Tensor:
        self.tally.used = True
        out: Any = self.function(*args)
        first: Any = out[0] if isinstance(out, tuple) else out
        if first.requires_grad:
            first.register_hook(self.tally.add)
        return cast("Tensor", out)
