"""Equilibrium models whose coordinates converge at different speeds, and a race between solvers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from homotopy_deq import ImplicitLayer
from homotopy_deq.cells import DenseCell
from solvers import Picard, Solution

INPUTS = 32


def uneven(
    hidden: int, *, share: float = 1 / 16, slow: float = 0.97, fast: float = 0.3, seed: int = 0
) -> DenseCell:
    """Return a tanh cell with a share of slow coordinates, in any order.

    W is symmetric positive of norm about `slow` on the slow ones and of spectral radius `fast` / 2
    on the others, with a weak random coupling of all. With share 1 all coordinates are slow.
    """
    g = torch.Generator().manual_seed(seed)
    count = round(share * hidden)
    weight = torch.randn(hidden, hidden, generator=g) * (0.025 / hidden**0.5)
    root = torch.randn(count, count, generator=g)
    gram = root @ root.T
    top = torch.randn(count, generator=g)
    for _ in range(100):  # to about a percent, and from below
        top = gram @ (top / top.norm())
    weight[:count, :count] += gram * (slow / top.norm())
    rest = hidden - count
    weight[count:, count:] += torch.randn(rest, rest, generator=g) * (
        fast / 2 / max(rest, 1) ** 0.5
    )
    order = torch.randperm(hidden, generator=g)
    cell = DenseCell(INPUTS, hidden)
    with torch.no_grad():
        cell.recurrent.weight.copy_(weight[order][:, order])
        cell.inject.weight.normal_(std=0.1 / INPUTS**0.5, generator=g)
        cell.inject.bias.zero_()
    return cell


class Images(nn.Module):
    """f(z; x) = tanh(W * z + x) of images, with a 3 x 3 kernel W that contracts."""

    rowwise = True

    def __init__(self, channels: int, gain: float = 0.9, seed: int = 0) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        kernel = torch.randn(channels, channels, 3, 3, generator=g)
        # The norm of a random kernel is about twice its root of mean squares times 3 sqrt(C).
        self.convolution.weight = nn.Parameter(kernel * (gain / (6 * channels**0.5)))

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def initial(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return (self.convolution(z) + x).tanh()


def layer(cell: nn.Module, rtol: float) -> ImplicitLayer:
    """Return the cell under plain Picard iteration."""
    return ImplicitLayer(cell, Picard(rtol=rtol, max_steps=2000))  # type: ignore[arg-type]


def residual(cell: nn.Module, x: Tensor, z: Tensor) -> float:
    """Return the largest ||f(z) - z|| / ||f(z)|| of a batch, of the cell in double precision."""
    cell, x, z = cell.double(), x.double(), z.double()
    with torch.no_grad():
        fz = cell(z, *cell.condition(x))
    found = (fz - z).flatten(1).norm(dim=1) / fz.flatten(1).norm(dim=1)
    cell.float()
    return float(found.max())


def race(
    calls: Mapping[str, Callable[[], Any]], rounds: int, least: float = 0.0
) -> dict[str, dict[str, float]]:
    """Time calls in turn, so that a drift of the machine meets them alike.

    Arguments:
        calls: by name.
        rounds: timings of each.
        least: seconds of a timing, which short calls are repeated to fill.

    Returns:
        The median of each call with the least and the largest, in milliseconds, and the median of
        its ratios to the call before it, of the same round: what drifts from round to round, or
        strikes one of them, is not in that.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        begin = time.perf_counter()
        call()
        repeats[name] = max(1, round(least / (time.perf_counter() - begin)))
    spans: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            spans[name].append(1e3 * (time.perf_counter() - begin) / repeats[name])
    found, before = {}, list(spans.values())[-1]
    for name, each in spans.items():
        ratio = statistics.median(a / b for a, b in zip(each, before, strict=True))
        found[name] = {"ms": statistics.median(each), "low": min(each), "high": max(each)}
        found[name]["times the one before"] = ratio
        before = each
    return found


def solved(found: Solution[Tensor]) -> dict[str, Any]:
    """Say how a solve went."""
    return {
        "converged": bool(found.converged.all()),
        "steps": int(found.steps.max()),
        "evaluations": float(found.evals.double().mean()),
        "multiply-adds": found.work,
    }
