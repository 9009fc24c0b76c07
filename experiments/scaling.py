"""Measure how time and memory of an implicit layer grow, from CIFAR's size to ImageNet's.

    python -m experiments.scaling [--device cuda]      # two minutes on a core

Time against width, batch, hard samples in a batch, and ranks that train on a batch each; and the
memory of a layer: of a state of C x H x W numbers a sample Anderson keeps 2 m and the loop about 6
more, `Implicit` adds one evaluation's activations to that and `Unroll` one per step. Layers and
ranks run in processes of their own. Writes scaling.json, scaling_cuda.json on a GPU, and the
picture of the same name.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor

from experiments.results import IMAGES, RESULTS, ROOT, Record
from homotopy_deq import Anderson, Equilibrium, Implicit, ImplicitLayer, Unroll, solve
from homotopy_deq.cells import ConvCell
from homotopy_deq.plotting.style import COLORS, canvas, plain, save

Shape = tuple[int, int, int, int]
GRADIENTS = ("Implicit", "Unroll")


@dataclass(frozen=True)
class Config:
    """Dense maps tanh(W z + c) with ||W|| = .95 to 1e-4, and HomoODE's cell to 1e-3."""

    device: str = "cpu"
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024)
    batches: tuple[int, ...] = (1, 8, 64, 256, 1024)
    hard: tuple[int, ...] = (0, 1, 4, 16, 64, 256)  # of 256
    ranks: tuple[int, ...] = (1, 2, 4, 8)  # as many as there are cores, or GPUs
    layers: tuple[tuple[str, Shape], ...] = (
        ("CIFAR-10, batch 64", (64, 64, 16, 16)),
        ("ImageNet 28x28, batch 4", (4, 256, 28, 28)),
        ("ImageNet 56x56, batch 4", (4, 256, 56, 56)),
    )
    rank: Shape = (16, 64, 16, 16)  # what each rank trains on
    width: int = 256  # where the batch grows
    batch: int = 64  # where the width does
    rtol: float = 1e-3
    memory: int = 6
    repeats: int = 9
    seed: int = 0


def dense(config: Config, batch: int, width: int, hard: int = 0) -> tuple[Equilibrium, Tensor]:
    """Return z = g tanh(W z + c) and z0 = 0, g = 1 of all samples, or 1 / 4 of those not hard."""
    draw = torch.Generator().manual_seed(config.seed)
    root = torch.randn(width, width, generator=draw)
    weight = root @ root.T
    weight = (0.95 * weight / torch.linalg.matrix_norm(weight, 2)).to(config.device)
    c = 0.1 * torch.randn(batch, width, generator=draw).to(config.device)
    gain = torch.full((batch, 1), 0.25 if hard else 1.0, device=config.device)
    gain[:hard] = 1
    problem = Equilibrium(lambda z, c, g: g * torch.tanh(torch.addmm(c, z, weight)), (c, gain))
    return problem, torch.zeros_like(c)


@torch.no_grad()
def timed(config: Config, problem: Equilibrium, z0: Tensor) -> dict[str, Any]:
    """Return milliseconds of a solve and of its evaluations alone, in turn."""
    solver = Anderson()
    found = solve(problem, solver, z0).check()
    evaluations = int(found.evals.max())

    def bare() -> None:
        z = z0
        for _ in range(evaluations):
            z = problem(z)

    calls: dict[str, Callable[[], Any]] = {
        "solve, ms": lambda: solve(problem, solver, z0),
        "evaluations x f, ms": bare,
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(1 + config.repeats):  # the first warms up
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            _finish(config.device)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return {
        "evaluations": evaluations,
        "evaluations, mean": float(found.evals.double().mean()),
        **{name: round(1e3 * statistics.median(each), 4) for name, each in seconds.items()},
    }


def layer(config: Config, shape: Shape, gradient: str) -> dict[str, Any]:
    """Solve and differentiate once; return seconds, evaluations and the growth of peak memory."""
    made, x = _layer(config, shape, gradient)
    made.cell(x[:1], x[:1]).sum().backward()  # what the first call loads is not the layer's
    before, begin = _peak(config.device), time.perf_counter()
    found = made.solve(x)
    _finish(config.device)
    forward = time.perf_counter() - begin
    found.value.square().mean().backward()
    _finish(config.device)
    state = x.numel() * x.element_size() / 2**20
    grown = _peak(config.device) - before
    return {
        "state, MiB": round(state, 2),
        "evaluations": float(found.evals.double().mean()),
        "converged": int(found.converged.sum()),
        "forward, s": round(forward, 3),
        "forward + backward, s": round(time.perf_counter() - begin, 3),
        "peak memory, MiB": round(grown, 1),
        "peak memory, states": round(grown / state, 1),
    }


def ranked(config: Config) -> dict[str, Any]:
    """Take training steps as one rank of several; return milliseconds of the slowest in each."""
    rank = int(os.environ["LOCAL_RANK"])
    if config.device == "cuda":
        torch.cuda.set_device(rank)
    dist.init_process_group("nccl" if config.device == "cuda" else "gloo")
    made, x = _layer(config, config.rank, "Implicit")
    x = x + 0.1 * rank  # other images on each
    steps = []
    for _ in range(1 + config.repeats):
        made.zero_grad()
        dist.barrier()
        begin = time.perf_counter()
        made.solve(x).value.square().mean().backward()
        _finish(config.device)
        own = time.perf_counter() - begin
        flat = torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None])
        dist.barrier()  # so that waiting for a slower rank is not the reduction's
        wait = time.perf_counter() - begin
        dist.all_reduce(flat)
        _finish(config.device)
        steps.append([own, wait, time.perf_counter() - begin])
    times = torch.tensor(steps[1:], device=config.device, dtype=torch.float64).median(0).values
    dist.all_reduce(times, dist.ReduceOp.MAX)
    own, wait, whole = (1e3 * times).tolist()
    ranks = dist.get_world_size()
    dist.destroy_process_group()
    return {
        "samples a second": round(1e3 * ranks * len(x) / whole, 1),
        "step, ms": round(whole, 2),
        "of which the reduction, ms": round(whole - wait, 3),
        "parameters": flat.numel(),
    }


def _layer(config: Config, shape: Shape, gradient: str) -> tuple[ImplicitLayer, Tensor]:
    torch.manual_seed(config.seed)
    rule = Implicit(Anderson(rtol=config.rtol)) if gradient == "Implicit" else Unroll()
    cell = ConvCell(shape[1], gain=0.5)
    made = ImplicitLayer(cell, Anderson(rtol=config.rtol, memory=config.memory), rule)
    return made.to(config.device), torch.randn(shape).to(config.device)


def _peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _apart(part: dict[str, Any], ranks: int = 0) -> dict[str, Any]:
    """Return what `main` measures of a part in a process of its own, or in several ranks."""
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    words = [*(many if ranks else ()), "-m", "experiments.scaling", "--part", json.dumps(part)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def part(said: dict[str, Any]) -> dict[str, Any] | None:
    """Do what `_apart` asks of another process; None from all ranks but the first."""
    torch.set_num_threads(1)
    config = Config(**said["config"])
    if "gradient" in said:
        return layer(config, said["shape"], said["gradient"])
    found = ranked(config)
    return found if os.environ["RANK"] == "0" else None


def drawn(found: dict[str, Any], path: Path) -> Path:
    """Draw time against width, batch, hard samples and ranks."""
    figure = canvas(9, 6)
    panels = figure.subplots(2, 2).flat
    for axes, name in zip(panels, ("width", "batch", "hard samples of a batch"), strict=False):
        rows = found[name]
        for key, color in zip(("solve, ms", "evaluations x f, ms"), COLORS, strict=False):
            if name != "hard samples of a batch" or key == "solve, ms":
                axes.plot(list(map(int, rows)), [r[key] for r in rows.values()], "o-",
                          color=color, label=key.removesuffix(", ms"))  # fmt: skip
        axes.set(xlabel=name, ylabel="milliseconds", xscale="symlog" if "hard" in name else "log")
        axes.set_yscale("linear" if "hard" in name else "log")
        axes.legend(frameon=False, fontsize=8)
    rows, axes = found["ranks"], figure.axes[3]
    ranks = list(map(int, rows))
    rates = [row["samples a second"] for row in rows.values()]
    axes.plot(ranks, rates, "o-", color=COLORS[0], label="measured")
    axes.plot(ranks, [rates[0] * k for k in ranks], "--", color=COLORS[6], label="in proportion")
    axes.set(xlabel="ranks", ylabel="samples a second", xticks=ranks)
    axes.legend(frameon=False, fontsize=8)
    for axes in figure.axes:
        plain(axes)
    return save(figure, path)


def main(config: Config, results: Path = RESULTS, images: Path = IMAGES) -> None:
    """Measure each part, print it, and write the result and its picture."""
    torch.set_num_threads(1)
    name = "scaling" if config.device == "cpu" else f"scaling_{config.device}"
    record, console, found = Record(name, config), Console(), dict[str, Any]()

    def keep(group: str, row: str, measured: dict[str, Any]) -> None:
        found.setdefault(group, {})[row] = measured
        console.print(f"{group} {row}: {measured}", highlight=False)

    for width in config.widths:
        keep("width", str(width), timed(config, *dense(config, config.batch, width)))
    for batch in config.batches:
        keep("batch", str(batch), timed(config, *dense(config, batch, config.width)))
    most = max(config.hard)
    for hard in config.hard:
        problem, z0 = dense(config, most, config.width, hard)
        if not hard:  # all are as easy as the easy ones of the other rows
            problem, z0 = dense(config, most + 1, config.width, 1)
            index = torch.arange(1, most + 1, device=config.device)
            problem, z0 = problem.rows(index), z0[1:]
        keep("hard samples of a batch", str(hard), timed(config, problem, z0))
    settings = vars(config)
    units = torch.cuda.device_count() if config.device == "cuda" else os.cpu_count() or 1
    for ranks in config.ranks:
        if ranks <= units:
            keep("ranks", str(ranks), _apart({"config": settings}, ranks))
    for named, shape in config.layers:
        for gradient in GRADIENTS:
            row = _apart({"config": settings, "shape": shape, "gradient": gradient})
            keep("layers", f"{named}, {gradient}", row)
    found["picture"] = drawn(found, images / f"{name}.png").name
    console.print(f"Written to {record.write(found, results)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default=Config.device)
    parser.add_argument("--part", type=json.loads, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.part is None:
        main(Config(device=chosen.device))
    elif (answer := part(chosen.part)) is not None:
        print(json.dumps(answer))
