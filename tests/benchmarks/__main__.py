"""Run the benchmarks against torchdeq, on one thread or on the GPU: `make bench`, `... cuda`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.results import Record

from . import gradients, solvers, votes

CASES = (("psd", 0.9), ("psd", 0.99))


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
    console.print(f"Written to {record.write(result)}")


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("device", nargs="?", choices=("cpu", "cuda"), default=Config.device)
    main(Config(device=parser.parse_args().device))
