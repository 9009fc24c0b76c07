"""Anderson over sizes: time over (evaluations x f), and beside torchdeq at the same residual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from solvers import Anderson, Equilibrium, solve

from .problems import race, residual, waits
from .solvers import TOLERANCE

SIZES = ((1, 64), (1, 1024), (8, 256), (64, 64), (64, 256), (256, 1024), (2048, 128))
NORM = 0.95


def sizes(
    device: str = "cpu", of: tuple[tuple[int, int], ...] = SIZES, repeats: int = 15
) -> dict[str, Any]:
    """Time solves of tanh(W z + c), W = G G^T scaled to ||W|| = 0.95, c ~ N(0, 0.01), from 0."""
    return {f"{batch} x {width}": _row(batch, width, device, repeats) for batch, width in of}


def _row(batch: int, width: int, device: str, repeats: int) -> dict[str, Any]:
    from torchdeq import solver as peer

    draw = torch.Generator().manual_seed(11)
    root = torch.randn(width, width, generator=draw, dtype=torch.float64)
    psd = root @ root.T
    weight = (NORM * psd / torch.linalg.matrix_norm(psd, 2)).float().T.contiguous().to(device)
    c = 0.1 * torch.randn(batch, width, generator=draw).to(device)
    z0 = torch.zeros_like(c)

    def f(z: Tensor, c: Tensor = c) -> Tensor:
        return torch.tanh(torch.addmm(c, z, weight))

    problem = Equilibrium(f, (c,))
    found = solve(problem, Anderson(), z0).check()
    evaluations = int(found.evals.max())

    def bare() -> None:
        z = z0
        for _ in range(evaluations):
            z = f(z)

    common = {"max_iter": 100, "tol": TOLERANCE, "stop_mode": "rel"}
    theirs = {
        "torchdeq fixed_point_iter": (peer.fixed_point_iter, {}),
        "torchdeq anderson": (peer.anderson_solver, {}),
        "torchdeq broyden": (peer.broyden_solver, {}),
        "torchdeq anderson, tuned": (peer.anderson_solver, {"lam": 1e-8}),
    }
    calls: dict[str, Callable[[], Any]] = {
        "evaluations x f": bare,
        "Anderson": lambda: solve(problem, Anderson(), z0),
    }
    worst = {"Anderson": residual(f, found.value)}
    for name, (function, extra) in theirs.items():
        calls[name] = lambda g=function, more={**common, **extra}: g(f, z0, **more)
        worst[name] = residual(f, calls[name]()[0])
    with torch.no_grad():
        times = race(calls, repeats)
    ours = times["Anderson"].median
    there = {name: times[name].median for name in theirs if worst[name] <= TOLERANCE}
    tuned = "torchdeq anderson, tuned"
    default = min((ms for name, ms in there.items() if name != tuned), default=None)
    return {
        "evaluations": evaluations,
        "f, ms": times["evaluations x f"].median / evaluations,
        "ms": {name: vars(timing) for name, timing in times.items()},
        "residual": worst,
        "waits": {name: waits(call, device) for name, call in calls.items()},
        "over evaluations x f": ours / times["evaluations x f"].median,
        "torchdeq's best default over ours": None if default is None else default / ours,
        "torchdeq's tuned Anderson over ours": there[tuned] / ours if tuned in there else None,
    }
