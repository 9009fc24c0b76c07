"""Forward solves: ours and torchdeq's at the same verified residual, and our own overhead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from homotopy_deq.cells import MonotoneCell
from solvers import Anderson, Broyden, Equilibrium, Picard, solve
from solvers.structure import offered

from .problems import BATCH, ConvCell, Tanh, race, residual, waits

TOLERANCE = 1e-4


def forward(kind: str, norm: float, device: str = "cpu") -> dict[str, Any]:
    """Time every solver on one map; each answer's residual is verified."""
    from torchdeq import solver as peer

    f = Tanh.make(kind, norm, device)
    ours = {"Anderson (our default)": Anderson(), "Picard": Picard(), "Broyden": Broyden()}
    theirs = {
        "torchdeq fixed_point_iter": (peer.fixed_point_iter, {}),
        "torchdeq anderson": (peer.anderson_solver, {}),
        "torchdeq anderson lam=1e-8": (peer.anderson_solver, {"lam": 1e-8}),
        "torchdeq broyden": (peer.broyden_solver, {}),
    }
    common = {"max_iter": 100, "tol": TOLERANCE, "stop_mode": "rel"}
    calls: dict[str, Callable[[], object]] = {"one evaluation": lambda: f(f.start)}
    rows: dict[str, Any] = {}
    for name, solver in ours.items():
        calls[name] = lambda solver=solver: solve(f.problem, solver, f.start)
        found = solve(f.problem, solver, f.start)
        rows[name] = {
            "evaluations": int(found.evals.max()),
            "mean evaluations": float(found.evals.double().mean()),
            "residual": residual(f, found.value),
        }
    for name, (function, extra) in theirs.items():
        settings = {**common, **extra}

        def call(function: Any = function, settings: Any = settings) -> Any:
            with torch.no_grad():
                return function(f, f.start, **settings)

        z, _, info = call()
        calls[name] = call
        rows[name] = {"evaluations": int(info["nstep"].max()), "residual": residual(f, z)}
    times = race(calls)
    for name, row in rows.items():
        row["ms"] = vars(times[name])
        row["converged"] = row["residual"] <= TOLERANCE
        row |= waits(calls[name], device)
    return {"one evaluation, ms": times["one evaluation"].median, "solvers": rows}


def overhead(device: str = "cpu") -> dict[str, Any]:
    """Anderson's time over (evaluations x f), for a cheap map and for a convolutional cell."""
    out: dict[str, Any] = {}
    dense = Tanh.make("psd", 0.99, device)
    cell = ConvCell().to(device)
    x = torch.randn(16, 32, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)

    def conv(z: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            return cell(z, x)

    cases = {
        "dense tanh": (dense.problem, dense.start),
        "convolutional cell": (Equilibrium(conv, (x,)), torch.zeros_like(x)),
    }
    for name, (problem, z0) in cases.items():
        found = solve(problem, Anderson(), z0)
        evaluations = int(found.evals.max())

        def bare(problem: Equilibrium = problem, z0: Tensor = z0, n: int = evaluations) -> None:
            z = z0
            with torch.no_grad():
                for _ in range(n):
                    z = problem.map(z, *(problem.condition or ()))

        times = race(
            {"solve": lambda p=problem, z=z0: solve(p, Anderson(), z), "bare": bare}, repeats=15
        )
        out[name] = {
            "f, ms": times["bare"].median / evaluations,
            "evaluations": evaluations,
            "converged": bool(found.converged.all()),
            "ratio": times["solve"].median / times["bare"].median,
        }
    return out


def hard_sample(device: str = "cpu") -> dict[str, Any]:
    """One hard sample among 256 against 256 easy ones, for a convolutional cell."""
    cell = ConvCell(16).to(device)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4 * BATCH, 16, 8, 8, generator=draw).to(device)
    gain = torch.full((4 * BATCH, 1, 1, 1), 0.5, device=device)
    hard_gain = gain.clone()
    hard_gain[17] = 4.0  # 82 evaluations, ten times an easy one

    def conv(z: Tensor, x: Tensor, gain: Tensor) -> Tensor:
        with torch.no_grad():
            return gain * cell(z, x)

    easy, hard = (Equilibrium(conv, (x, g)) for g in (gain, hard_gain))
    z0 = torch.zeros_like(x)
    solver = Anderson(max_steps=300)
    found = {"easy": solve(easy, solver, z0), "hard": solve(hard, solver, z0)}
    times = race(
        {
            "easy": lambda: solve(easy, solver, z0),
            "hard": lambda: solve(hard, solver, z0),
        },
        repeats=15,
    )
    return {
        "easy, ms": vars(times["easy"]),
        "one hard, ms": vars(times["hard"]),
        "evaluations of the easy samples": int(found["easy"].evals.max()),
        "evaluations of the hard sample": int(found["hard"].evals[17]),
        "all converged": bool(found["hard"].converged.all()),
        "ratio": times["hard"].median / times["easy"].median,
    }


def changed(device: str = "cpu", share: float = 0.125) -> dict[str, Any]:
    """W z after a change of some channels: by their columns beside all of it, on one image."""
    torch.manual_seed(0)
    cell, zeros = MonotoneCell((64, 32, 32)).to(device), torch.zeros(1, 64, 32, 32, device=device)
    linear = cell.equation((zeros,)).linear
    columns, work = (offered(linear, name) for name in ("columns", "multiply_adds"))
    assert columns is not None and work is not None
    index = torch.arange(int(64 * share), device=device)
    z, change = torch.randn_like(zeros), torch.randn_like(zeros[:, : len(index)])
    with torch.no_grad():
        image, part = linear(z), columns(index)
        times = race({"all": lambda: linear(z), "columns": lambda: image + part(change)})
    return {
        "share": share,
        "multiply-adds": part.multiply_adds(change) / work(z),
        "ratio": times["columns"].median / times["all"].median,
    }
