"""Time one training step of HomoODE in its CIFAR-10 configuration, in float32 and bfloat16.

    python -m experiments.cifar_step [--device cuda]     # on a GPU where there is one

The published model (132,938 parameters, dz/dt = f(z; x) on [0, 1], dopri5 at 1e-3, batch 64) on
random images of CIFAR-10's shape: time and memory of a step do not depend on what they show. By
torchdiffeq's integrator and by ours, in turn, each case in processes of its own; the least time of
all counts, as others on the machine only add to it. The authors' release takes 15 to 18 s a step
on a CPU like the one that our figure comes from. With less memory: steps taken again one by one,
and rk4 in 5 equal steps, unrolled and taken back. Beside it, a DEQ of the same parts: our Anderson,
and torchdeq's on the same cell, to 1e-2 forward and backward, 30 evaluations at most. Writes
cifar_step.json, cifar_step_cuda.json on a GPU.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from experiments.results import Record
from homotopy_deq import (
    DEQ,
    ODE,
    RK4,
    Adjoint,
    Anderson,
    HomoODE,
    Implicit,
    Reversible,
    RungeKutta,
    Unroll,
)

FLOWS: dict[str, tuple[Any, Any]] = {
    "Unroll": (ODE, Unroll),
    "Unroll, RungeKutta": (RungeKutta, Unroll),
    "Unroll(checkpoint=1), RungeKutta": (RungeKutta, partial(Unroll, checkpoint=1)),
    "Unroll, rk4 in 5": (partial(RungeKutta, RK4, step_size=0.2), Unroll),
    "Reversible, rk4 in 5": (partial(RungeKutta, RK4, step_size=0.2), Reversible),
    "Adjoint": (ODE, Adjoint),
}
RTOL, MOST = 1e-2, 30
RULES = [*FLOWS, "DEQ", "DEQ by torchdeq"]
Solve = Callable[[Tensor], tuple[Tensor, float]]
# In bfloat16 torchdeq 0.1.0 raises in the backward pass of a cell that ran under autocast, and
# Reversible refuses: its five steps back miss the start by more than it allows.
LEFT_OUT = ("DEQ by torchdeq", "Reversible, rk4 in 5")
CASES = [
    (p, g) for p in ("float32", "bfloat16") for g in RULES if p == "float32" or g not in LEFT_OUT
]
# A GPU's convolutions round float32 to the ten bits of TF32: Reversible refuses there, too.
ON_A_GPU = [
    *(("float32", g) for g in RULES if "rk4" not in g and g != "Adjoint"),
    *(("bfloat16", g) for g in ("Unroll", "Unroll, RungeKutta")),
]


@dataclass(frozen=True)
class Config:
    """The step that is timed."""

    batch: int = 64
    tolerance: float = 1e-3
    warmup: int = 1
    steps: int = 3
    rounds: int = 2
    seed: int = 0
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def step(config: Config, precision: str, gradient: str) -> dict[str, Any]:
    """Return seconds, evaluations and peak memory of a step, in a process of its own."""
    torch.manual_seed(config.seed)
    device = config.device
    model = build(config, gradient).to(device)
    solve = by_torchdeq(model) if gradient == "DEQ by torchdeq" else ours(model)
    optimizer = torch.optim.Adam(model.task_parameters(), lr=1e-3)
    images = torch.rand(config.batch, 3, 32, 32, device=device)
    labels = torch.randint(10, (config.batch,), device=device)
    forward, whole, evals, losses = [], [], [], []
    for _ in range(config.warmup + config.steps):
        begin = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            logits, spent = solve(images)
            loss = F.cross_entropy(logits.float(), labels)
        evals.append(spent)
        losses.append(loss.item())
        forward.append(_since(begin, device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        whole.append(_since(begin, device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return {
        "parameters": sum(p.numel() for p in model.task_parameters()),
        "first loss": losses[0],
        "forward, s": min(forward[config.warmup :]),
        "step, s": min(whole[config.warmup :]),
        "evaluations forward": statistics.median(evals[config.warmup :]),
        "peak memory, MiB": round(peak),
    }


def build(config: Config, name: str) -> HomoODE | DEQ:
    """Return the model of a row."""
    if name not in FLOWS:
        solver = Anderson(rtol=RTOL, max_steps=MOST)
        return DEQ(solver=solver, gradient=Implicit(solver), on_failure="ignore")
    method, rule = FLOWS[name]
    solver = method(rtol=config.tolerance, atol=config.tolerance)
    return HomoODE(rest_point=False, solver=solver, gradient=rule())


def ours(model: HomoODE | DEQ) -> Solve:
    """Return what gives logits and the mean number of evaluations, by the model's own solver."""

    def solve(images: Tensor) -> tuple[Tensor, float]:
        output = model.solve(images)
        return output.logits, float(output.solution.evals.double().mean())

    return solve


def by_torchdeq(model: HomoODE | DEQ) -> Solve:
    """Return the same by torchdeq's Anderson, with its implicit gradient."""
    from torchdeq import get_deq

    most = {"f_max_iter": MOST, "b_max_iter": MOST, "f_stop_mode": "rel", "b_stop_mode": "rel"}
    deq = get_deq(
        f_solver="anderson", b_solver="anderson", f_tol=RTOL, b_tol=RTOL, ift=True, **most
    )
    deq.train()

    def solve(images: Tensor) -> tuple[Tensor, float]:
        x = model.condition(images)
        condition = model.layer.condition(x)
        z, info = deq(lambda z: model.layer.cell(z, *condition), model.start(x))
        return model.head(z[-1]), float(info["nstep"].double().mean())

    return solve


def _since(begin: float, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main(config: Config) -> None:
    """Time each case in a process of its own; print the table and write cifar_step.json."""
    record = Record("cifar_step" + ("_cuda" if config.device == "cuda" else ""), config)
    console = Console()
    table = Table(title="HomoODE training step, CIFAR-10 configuration")
    for column in ("precision", "gradient", "forward, s", "step, s", "evals", "peak MiB"):
        table.add_column(column)
    result: dict[str, Any] = {}
    for turn in range(config.rounds):
        for precision, gradient in CASES if config.device == "cpu" else ON_A_GPU:
            with console.status(f"{precision}, {gradient}, round {turn + 1} of {config.rounds}"):
                words = [sys.executable, "-m", "experiments.cifar_step", precision, gradient,
                         "--device", config.device]  # fmt: skip
                done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            before = result.setdefault(f"{precision}, {gradient}", found)
            found |= {key: min(found[key], before[key]) for key in ("forward, s", "step, s")}
            result[f"{precision}, {gradient}"] = found
    for name, found in result.items():
        table.add_row(
            *name.split(", ", 1),
            f"{found['forward, s']:.2f}",
            f"{found['step, s']:.2f}",
            f"{found['evaluations forward']:.0f}",
            str(found["peak memory, MiB"]),
        )
    console.print(table)
    console.print(f"Written to {record.write(result)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", nargs="*", help="precision and gradient: print this case alone")
    parser.add_argument("--device", choices=("cpu", "cuda"), default=Config.device)
    chosen = parser.parse_args()
    if not chosen.case:
        main(Config(device=chosen.device, rounds=1 if chosen.device == "cuda" else 2))
    elif tuple(chosen.case) in CASES:
        print(json.dumps(step(Config(device=chosen.device), *chosen.case)))
    else:
        parser.error(f"no such case; there are {CASES}")
