"""Choose the thresholds of a delta iteration for a loss that they may cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from solvers import Solution

from ..layers import Layer
from ..models.image import ImageModel
from .accounts import account
from .delta import STATE, delta

M = TypeVar("M", Layer, ImageModel)
Loss = Callable[[Tensor, Any], Tensor]

HALVINGS = 16
"""Thresholds that are tried for the state: its root mean square over 1, 2, ... 2^15."""
DOUBLINGS = 8
"""And for a layer: the state's times 2, 4, ... 2^8."""


@dataclass(frozen=True)
class Tuned(Generic[M]):
    """Thresholds for a loss, and what they cost and save on the data that they were chosen on.

    Arguments:
        target: the layer or model with these thresholds, as `delta` makes it.
        tau: by name: "z" is the state's, and a layer has its own where that is not the state's.
        loss: mean over the samples, with these thresholds.
        exact: the same of the layer or model that was given.
        spent: multiply-adds of all solves, with these thresholds.
        dense: those of the same iteration with no threshold, to the same tolerance.
    """

    target: M
    tau: Mapping[str, float]
    loss: float
    exact: float
    spent: int
    dense: int


def tune(
    target: M,
    data: Iterable[tuple[Tensor, Any]],
    loss_budget: float,
    *,
    loss: Loss = F.cross_entropy,
    **settings: Any,
) -> Tuned[M]:
    """Return the largest thresholds with which the mean loss grows by at most a budget.

    One for the state and all layers is sought first, at half of the budget. Then that of each
    layer is raised, the layer of most work first, and at last the state's once more, as long as
    the loss allows and multiply-adds fall. Losses are measured, not predicted; that they grow with
    the thresholds is assumed in what is tried, never in what is returned.

    Arguments:
        target: a trained layer or model, as `delta` takes it.
        data: batches (x, y) that stand for those to come; read once, then kept.
        loss_budget: what the thresholds may add to the mean loss, above 0.
        loss: loss(output, y), the mean over a batch.
        settings: of `delta`, such as `products` or `solver`.

    Raises:
        ValueError: the budget is not above 0, there are no data, or even the smallest threshold
            that is tried costs more than the budget.
    """
    if not (loss_budget > 0 and math.isfinite(loss_budget)):
        raise ValueError(f"loss_budget must be above 0 and finite; got {loss_budget}.")
    batches: list[tuple[Tensor, Any]] = [(x, y) for x, y in data if len(x)]
    if not batches:
        raise ValueError("data must hold a batch (x, y) with a sample at least.")
    exact, size, _ = _measured(target, batches, loss)
    dense = _measured(delta(target, tau=0.0, **settings), batches, loss)[2]
    found: dict[str, tuple[float, int]] = {}

    def within(tau: dict[str, float], share: float = 1.0) -> bool:
        key = repr(tau)
        if key not in found:
            measured = _measured(delta(target, tau=tau, **settings), batches, loss)
            found[key] = measured[0], measured[2]
        return found[key][0] <= exact + share * loss_budget  # False where it is NaN

    scale = max(size, torch.finfo(torch.float32).tiny)
    grid = [{STATE: scale / 2**k} for k in range(HALVINGS)][::-1]
    best: dict[str, float] | None = _last(grid, lambda tau: within(tau, 0.5))
    if best is None:
        cost = found[repr(grid[0])][0] - exact
        raise ValueError(
            f"even the smallest threshold, {grid[0][STATE]:.1e}, adds {cost:.1e} to the loss; "
            f"loss_budget is {loss_budget:g}, and half of it is for that. Raise the budget."
        )
    for name in (*_layers(delta(target, tau=best, **settings), batches[0][0]), STATE):
        own = best.get(name, best[STATE])
        raised = [{**best, name: own * 2**k} for k in range(1, DOUBLINGS + 1)]
        candidate = _last(raised, within)
        if candidate is not None and found[repr(candidate)][1] < found[repr(best)][1]:
            best = candidate
    value, spent = found[repr(best)]
    return Tuned(delta(target, tau=best, **settings), best, value, exact, spent, dense)


def _last(
    grid: Sequence[dict[str, float]], fits: Callable[[dict[str, float]], bool]
) -> dict[str, float] | None:
    """Return the last of a grid that fits, found by halving; None if the first does not."""
    low, high = 0, len(grid)  # grid[low - 1] fits, grid[high] does not
    while low < high:
        middle = (low + high) // 2
        if fits(grid[middle]):
            low = middle + 1
        else:
            high = middle
    return grid[low - 1] if low else None


def _layers(target: M, x: Tensor) -> list[str]:
    """Name the layers of a delta layer or model, that of most work first."""
    layers = [each for each in account(target, x[:1]).layers if not each.hoisted]
    return [each.name for each in sorted(layers, key=lambda each: -each.dense)]


@torch.no_grad()
def _measured(
    target: Layer | ImageModel, batches: Sequence[tuple[Tensor, Any]], loss: Loss
) -> tuple[float, float, int]:
    """Return the mean loss, the root mean square of the states, and the multiply-adds."""
    total, square, entries, samples, work = 0.0, 0.0, 0, 0, 0
    for x, y in batches:
        output, solution = _solved(target, x)
        total += float(loss(output, y)) * len(x)
        square += float(solution.value.double().square().sum())
        entries += solution.value.numel()
        samples += len(x)
        work += solution.work or 0
    return total / samples, math.sqrt(square / entries), work


def _solved(target: Layer | ImageModel, x: Tensor) -> tuple[Tensor, Solution[Tensor]]:
    if isinstance(target, ImageModel):
        found = target.solve(x)
        return found.logits, found.solution
    solution = target.solve(x)
    return solution.value, solution
