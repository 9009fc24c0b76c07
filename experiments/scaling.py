"""Measure memory and time of one implicit layer from CIFAR's size to ImageNet's.

    python -m experiments.scaling

For a state of C x H x W numbers a sample, Anderson keeps 2 m of them and the loop about 6 more;
`Implicit` adds one evaluation's activations to that and `Unroll` one per step. Each case runs in a
process of its own; its peak memory is compared with that count, so that larger sizes can be
computed before they are run.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.results import Record, bare
from homotopy_deq import Anderson, Implicit, ImplicitLayer, Unroll
from homotopy_deq.cells import ConvCell

SHAPES = {
    "CIFAR-10, batch 64": (64, 64, 16, 16),
    "ImageNet 28x28, batch 4": (4, 256, 28, 28),
    "ImageNet 56x56, batch 1": (1, 256, 56, 56),
    "ImageNet 56x56, batch 4": (4, 256, 56, 56),
}


@dataclass(frozen=True)
class Config:
    """The cell of HomoODE at its initial weights, to a relative residual of 1e-3."""

    rtol: float = 1e-3
    memory: int = 6
    seed: int = 0


def measure(config: Config, name: str, gradient: str) -> dict[str, Any]:
    """Solve and differentiate once; return seconds, evaluations and the growth of peak memory."""
    torch.manual_seed(config.seed)
    batch, channels, height, width = SHAPES[name]
    rule = Implicit(Anderson(rtol=config.rtol)) if gradient == "Implicit" else Unroll()
    cell = ConvCell(channels, gain=0.5)
    layer = ImplicitLayer(cell, Anderson(rtol=config.rtol, memory=config.memory), rule)
    x = torch.randn(batch, channels, height, width)
    cell(x[:1], x[:1]).sum().backward()  # what the first call loads is not the layer's
    before = _peak()
    begin = time.perf_counter()
    found = layer.solve(x)
    forward = time.perf_counter() - begin
    found.value.square().mean().backward()
    state = x.numel() * x.element_size() / 2**20
    return {
        "state, MiB": round(state, 2),
        "evaluations": float(found.evals.double().mean()),
        "converged": int(found.converged.sum()),
        "forward, s": round(forward, 3),
        "forward + backward, s": round(time.perf_counter() - begin, 3),
        "peak memory, MiB": round(_peak() - before, 1),
        "peak memory, states": round((_peak() - before) / state, 1),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main(config: Config) -> None:
    """Run every case; print the table and write experiments/results/scaling.json."""
    record = Record("scaling", config)
    console = Console()
    table = Table(title="One implicit layer, forward and backward")
    for column in ("state", "gradient", "evals", "forward, s", "both, s", "peak MiB", "in states"):
        table.add_column(column)
    result: dict[str, Any] = {}
    for name in SHAPES:
        for gradient in ("Implicit", "Unroll"):
            with console.status(f"{name}, {gradient}"):
                words = [sys.executable, "-m", "experiments.scaling", name, gradient]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
            row = json.loads(done.stdout.splitlines()[-1])
            result[f"{name}, {gradient}"] = row
            table.add_row(
                name,
                gradient,
                f"{row['evaluations']:.0f}",
                f"{row['forward, s']:.2f}",
                f"{row['forward + backward, s']:.2f}",
                f"{row['peak memory, MiB']:.0f}",
                f"{row['peak memory, states']:.0f}",
            )
    console.print(table)
    console.print(f"Written to {record.write(result)}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measure(Config(), *sys.argv[1:])))
    else:
        bare(__doc__)
        main(Config())
