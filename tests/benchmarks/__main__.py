"""Run the benchmarks beside their peers, on one thread or on the GPU.

    python -m tests.benchmarks            # make bench: all, ten minutes on a quiet machine
    python -m tests.benchmarks cuda
    python -m tests.benchmarks --only sizes flow

Each part is written to experiments/results/bench.json (bench_cuda.json) once it is done; with
--only, parts are printed and not written.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.results import Record

from . import gradients, rows, solvers, votes
from .sizes import sizes

CASES = (("psd", 0.9), ("psd", 0.99))
MORE: dict[str, Callable[[str], dict[str, Any]]] = {
    "sizes": sizes,
    "flow": rows.flow,
    "decide": votes.decide,
    "steps": lambda device: rows.steps(),
    "paths": lambda device: rows.paths(),
    "demo": lambda device: rows.demo(),
    "loading": lambda device: rows.loading(),
}
"""Parts that are printed a line a row."""
ON_A_GPU = ("sizes", "flow", "decide")
"""Those of them that a GPU has to do with; `experiments.cifar_step` times its training steps."""


@dataclass(frozen=True)
class Config:
    """What is measured: float32, one thread, batch 64, width 256, relative tolerance 1e-4."""

    seed: int = 0
    threads: int = 1
    device: str = "cpu"


def main(config: Config) -> None:
    """Measure, print tables, and write experiments/results/bench.json (bench_cuda.json)."""
    torch.set_num_threads(config.threads)
    console, device = Console(), config.device
    record = Record("bench" if device == "cpu" else f"bench_{device}", config)
    result: dict[str, Any] = {"forward": {}, "backward": {}}
    with console.status("timing ...") as status:
        for kind, norm in CASES:
            name = f"{kind} {norm}"
            status.update(f"forward, {name}")
            result["forward"][name] = found = solvers.forward(kind, norm, device)
            console.print(_forward_table(name, found))
            status.update(f"backward, {name}")
            result["backward"][name] = found = gradients.backward(kind, norm, device)
            console.print(_backward_table(name, found))
        status.update("overhead")
        result["overhead"] = solvers.overhead(device)
        for name, row in result["overhead"].items():
            console.print(
                f"Anderson on the {name}: {row['ratio']:.2f} x evaluations x f "
                f"(f takes {row['f, ms']:.3f} ms, {row['evaluations']} evaluations)"
            )
        status.update("one hard sample")
        result["one hard sample among 256"] = hard = solvers.hard_sample(device)
        console.print(
            f"One hard sample among 256 ({hard['evaluations of the hard sample']} evaluations, "
            f"the easy {hard['evaluations of the easy samples']}): "
            f"{hard['ratio']:.2f} x the time of 256 easy ones"
        )
        status.update("votes")
        result["votes under noise"] = found = votes.certify(device)
        for name, row in found.items():
            console.print(
                f"{name}: {row['us a sample']['median']:.1f} us a noise sample, "
                f"{row['evaluations']:.1f} evaluations"
            )
        status.update("some columns")
        result["W z after a change of some channels"] = some = solvers.changed(device)
        console.print(
            f"W z after a change of {some['share']:.0%} of the channels, by their columns: "
            f"{some['multiply-adds']:.0%} of the multiply-adds, {some['ratio']:.2f} x the time"
        )
    record.write(result)
    for name, found in parts(tuple(MORE) if device == "cpu" else ON_A_GPU, config, console):
        result[name] = found
        record.write(result)
    console.print(f"Written to {record.write(result)}")


def parts(
    names: Sequence[str], config: Config, console: Console
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Measure parts, print each and yield it."""
    torch.set_num_threads(config.threads)
    for name in names:
        with console.status(name):
            found = MORE[name](config.device)
        console.print(f"[bold]{name}")
        for row, value in found.items():
            console.print(f"  {row}: {_short(value)}", highlight=False)
        yield name, found


def _short(value: Any) -> str:
    """Return a number, median (low-high), or the same of each entry."""
    if isinstance(value, dict):
        if set(value) == {"median", "low", "high"}:
            return f"{value['median']:.3g} ({value['low']:.3g}-{value['high']:.3g})"
        return ", ".join(f"{name} {_short(each)}" for name, each in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _forward_table(name: str, found: dict[str, Any]) -> Table:
    best = min(
        row["ms"]["median"]
        for solver, row in found["solvers"].items()
        if solver.startswith("torchdeq") and row["converged"]
    )
    table = Table(title=f"{name}: forward to 1e-4 (f: {found['one evaluation, ms']:.3f} ms)")
    for column in ("solver", "ms", "evaluations", "residual", "times faster than torchdeq's best"):
        table.add_column(column)
    for solver, row in found["solvers"].items():
        ms = row["ms"]
        table.add_row(
            solver,
            f"{ms['median']:.2f} ({ms['low']:.2f}-{ms['high']:.2f})",
            str(row["evaluations"]),
            f"{row['residual']:.1e}" + ("" if row["converged"] else " NOT CONVERGED"),
            f"{best / ms['median']:.2f}",
        )
    return table


def _backward_table(name: str, found: dict[str, Any]) -> Table:
    best = min(r["ms"]["median"] for n, r in found.items() if n.startswith("torchdeq"))
    table = Table(title=f"{name}: implicit backward")
    for column in ("solver", "ms", "relative error of dW", "times faster than torchdeq's fastest"):
        table.add_column(column)
    for solver, row in found.items():
        ms = row["ms"]
        table.add_row(
            solver,
            f"{ms['median']:.2f} ({ms['low']:.2f}-{ms['high']:.2f})",
            f"{row['error']:.1e}",
            f"{best / ms['median']:.2f}",
        )
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("device", nargs="?", choices=("cpu", "cuda"), default=Config.device)
    parser.add_argument("--only", nargs="+", choices=tuple(MORE), help="these parts, unwritten")
    given = parser.parse_args()
    if given.only:
        list(parts(given.only, Config(device=given.device), Console()))
    else:
        main(Config(device=given.device))
