"""Follow moving views by an equilibrium: each frame from nothing, or from where the last ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.flow_model import FlowNet, errors, read
from homotopy_deq.acceleration import Entrywise, account, delta
from solvers import Solution, Solver
from solvers.delta import DeltaPicard

LOST = 1.0
"""Percent of the end-point error that a way may lose against the cold start and still count."""


@torch.no_grad()
def follow(
    net: FlowNet,
    clip: list[tuple[Tensor, Tensor]],
    solvers: Mapping[str, Solver[Any, Any]],
    kept: Callable[[str, Callable[[], Any]], Any],
) -> dict[str, Any]:
    """Return what each way took and how far off it was, against the first from a cold start.

    An effective evaluation is the multiply-adds of one dense evaluation, what is computed once a
    frame left out.

    Arguments:
        net: the network.
        clip: views and their flow, frame by frame.
        solvers: by name; those with thresholds are warm only.
        kept: makes a part of the result by its name, or returns it where it was made before.
    """
    rows: dict[str, dict[str, float]] = {}
    for name, solver in solvers.items():
        for start in ("warm",) if isinstance(solver, DeltaPicard) else ("cold", "warm"):
            way = f"{start}, {name}"
            rows[way] = kept(way, partial(followed, net, clip, solver, warm=start == "warm"))
    base = next(iter(rows.values()))
    for row in rows.values():
        share = row["effective evaluations a frame"] / base["effective evaluations a frame"]
        row["of the cold evaluations"] = round(share, 4)
        row["EPE lost, %"] = round(100 * (row["EPE"] / base["EPE"] - 1), 2)
    fine = {way: row for way, row in rows.items() if row["EPE lost, %"] <= LOST}
    fewest = {
        kind: min(ways, key=lambda way: fine[way]["of the cold evaluations"])
        for kind in ("cold", "warm", "warm, delta in entries", "warm, delta in tiles")
        if (ways := [way for way in fine if way.startswith(kind)])
    }
    return {"rows": rows, f"fewest at a loss of {LOST:g}%": fewest}


def followed(
    net: FlowNet, clip: list[tuple[Tensor, Tensor]], solver: Solver[Any, Any], *, warm: bool
) -> dict[str, float]:
    """Solve frame after frame; return the mean errors and the effective evaluations of a frame."""
    sparse = isinstance(solver, DeltaPicard)
    layer: Any = net.layer.with_solver(solver)
    if sparse:
        layer = delta(net.layer, solver=solver, products=Entrywise())
    last: Solution[Tensor] | None = None
    evaluations, far, wrong = 0.0, 0.0, 0.0
    for views, true in clip:
        start = last if warm else None
        if sparse:
            took = account(layer, views, start)
            last, evaluations = took.solution, evaluations + took.spent / took.dense(1)
        else:
            last = layer.solve(views, start)
            evaluations += float(last.evals.double().mean())
        found = errors(read(last.value), true)
        far, wrong = far + float(found["EPE"].mean()), wrong + float(found["F1"].mean())
    count = len(clip)
    return {
        "EPE": round(far / count, 4),
        "F1": round(wrong / count, 4),
        "effective evaluations a frame": round(evaluations / count, 3),
    }
