"""Solve for the equilibria of one trained attention cell by every solver, and compare each pair.

    python -m experiments.attention            # a minute or two of a core

Trains the equilibrium transformer of `experiments.language` for some steps, takes windows of the
held-out text, and writes the largest relative difference ||z_a - z_b|| / ||z_b|| of a window for
each pair of solvers, in float32 and float64, and how many windows each has solved.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.agreement import SOLVERS, compare
from experiments.characters import batch, corpus
from experiments.language import EQUILIBRIUM, built
from experiments.language import Config as Models
from experiments.language_training import Training, learn
from experiments.results import RESULTS, Record
from homotopy_deq import ArcLength, DeltaPicard, Robust
from solvers import Davidenko, DeltaAnderson, Solver

EVERY: dict[str, Solver[Any, Any]] = SOLVERS | {
    "ArcLength": ArcLength(),
    "Davidenko": Davidenko(),
    "DeltaPicard": DeltaPicard(max_steps=2000),
    "DeltaAnderson": DeltaAnderson(max_steps=500),
    "Robust": Robust(),
}


@dataclass(frozen=True)
class Config:
    """The model, how it is trained, and how tightly its equilibria are solved for."""

    channels: int = 32
    heads: int = 4
    training: Training = field(default_factory=lambda: Training(length=32))
    characters: int | None = None
    steps: int = 100
    windows: int = 16
    rtol32: float = 2e-6
    rtol64: float = 1e-11
    seed: int = 0


def main(config: Config, results: Path = RESULTS) -> dict[str, Any]:
    """Train, solve, compare; write experiments/results/attention.json."""
    torch.set_num_threads(1)
    record, console, how = Record("attention", config), Console(), config.training
    text = corpus(config.characters)
    sizes = Models(how, config.channels, config.heads, dropout=0.0)
    model = built(EQUILIBRIUM, sizes, len(text.alphabet), 0).to(how.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=how.lr)
    losses = [learn(model, optimizer, text.train, how, step) for step in range(config.steps)]
    seen, _ = batch(text.held_out, config.windows, how.length, config.seed, 0)
    body: Any = model.eval().body
    result: dict[str, Any] = {
        "text": text.about,
        "bits per character in training": round(sum(losses[-20:]) / len(losses[-20:]), 3),
    }
    for dtype, rtol in ((torch.float32, config.rtol32), (torch.float64, config.rtol64)):
        name = str(dtype).removeprefix("torch.")
        x = model.to(dtype).embedded(seen.to(how.device)).detach()

        def solved(solver: Solver[Any, Any], x: torch.Tensor = x) -> Any:
            return body.with_solver(solver).solve(x)

        result[name] = compare(solved, rtol, name, EVERY)
        for label, row in result[name]["solvers"].items():
            if row["converged"] < config.windows:
                console.print(f"{name}: {label} solved {row['converged']} of {config.windows}")
        console.print(f"{name}: the worst pair is {result[name]['worst pair']:.1e} apart")
    console.print(f"Written to {record.write(result, results)}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=Config.steps, help="of training")
    parser.add_argument("--device", default=Training.device)
    chosen = parser.parse_args()
    where = replace(Config().training, device=chosen.device)
    main(Config(steps=chosen.steps, training=where))
