"""Represent images and a sound by equilibria, and skip what has converged.

    python -m experiments.inr [--device cuda]
    python -m experiments.inr --device cpu --small

DEQ-Siren and DEQ-Fourier (`experiments.representation`) are trained on photographs that
scikit-learn ships and on a synthesised sound. Then, against 40 fixed iterations: delta updates at
several thresholds, the rule as published (its reference is the previous iterate), Picard and
Anderson stopped early at several tolerances. Multiply-adds are counted two ways: of the entries
that have changed (as the paper counts), and of what the kernels here really did, where a column
moves in all samples or in none. The injection U x is computed once on all sides; it and the
read-out are in none of the counts. Anderson's mixing is counted.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from experiments.parts import Parts
from experiments.representation import Fourier, Representation, Siren, decibel, fit
from experiments.results import IMAGES, RESULTS, Record
from experiments.signals import image, sound
from homotopy_deq import Anderson, Picard, plotting
from homotopy_deq.acceleration import Entrywise, account, delta
from solvers import Solver
from solvers.delta import Blocks, DeltaPicard

NEVER = 1e-12  # a relative residual that float32 does not reach
LOSS = 0.1  # dB that a cut may cost
PAPER = "84% of the FLOPs (Wang et al. 2024, implicit neural representation)"


@dataclass(frozen=True)
class Config:
    """What is represented, how long it is trained, and what is tried on it."""

    size: int = 128
    samples: int = 8000
    hidden: int = 256
    steps: int = 1000
    lr: float = 2e-3
    iterations: int = 40
    taus: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 5e-2, 1e-1, 2e-1)
    rtols: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    signals: tuple[str, ...] = ("china", "flower", "sound")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    work: Path = Path("runs/inr")
    seed: int = 0


SMALL: dict[str, Any] = {"size": 40, "samples": 1600, "hidden": 96, "steps": 300}
CELLS: dict[str, tuple[type[Siren], dict[str, float]]] = {
    "DEQ-Siren": (Siren, {"image": 30.0, "sound": 400.0}),
    "DEQ-Fourier": (Fourier, {"image": 25.0, "sound": 400.0}),
}
"""Cells, and the highest frequency that enters, in radians a unit; signals live on [-1, 1]."""


def signal(name: str, config: Config) -> tuple[Tensor, Tensor]:
    """Return the coordinates and values of a signal."""
    x, y = sound(config.samples) if name == "sound" else image(name, config.size)
    return x.to(config.device), y.to(config.device)


def trained(cell: str, name: str, config: Config, parts: Parts) -> tuple[Representation, Any]:
    """Return a trained representation, and how long its training took."""
    torch.manual_seed(config.seed)
    x, y = signal(name, config)
    kind, frequencies = CELLS[cell]
    frequency = frequencies["sound" if name == "sound" else "image"]
    model = Representation(kind(x.shape[1], config.hidden, frequency), y.shape[1])
    model.to(config.device)

    def train() -> None:
        begun = time.perf_counter()
        fit(model, x, y, steps=config.steps, lr=config.lr)
        seconds = round(time.perf_counter() - begun, 1)
        parts(f"{cell}-{name}-training", lambda: {"seconds": seconds})

    parts.weights(f"{cell}-{name}", model, train)
    return model, parts(f"{cell}-{name}-training", lambda: {"seconds": None})


def measure(model: Representation, x: Tensor, y: Tensor, config: Config) -> dict[str, Any]:
    """Return each way's loss in dB against the fixed iterations, and the multiply-adds it cut."""
    layer, k = model.layer, config.iterations
    square = layer.cell.recurrent.weight.numel()
    whole = k * len(x) * square
    fixed = layer.with_solver(Picard(rtol=NEVER, max_steps=k)).solve(x).value
    best = decibel(model, fixed, y)

    def row(z: Tensor, spent: float, done: float, **more: float) -> dict[str, float]:
        return {
            **more,
            "loss, dB": round(best - decibel(model, z, y), 4),
            "cut": round(1 - spent / whole, 4),
            "cut, as computed": round(1 - done / whole, 4),
        }

    def updated(tau: float, *, previous: bool) -> dict[str, float]:
        solver = DeltaPicard(tau=tau, rtol=NEVER, max_steps=k, previous=previous)
        counted = account(delta(layer, solver=solver, products=Entrywise()), x)
        real = account(delta(layer, solver=replace(solver, together=Blocks())), x)
        return row(counted.solution.value, counted.spent, real.spent, tau=tau)

    def stopped(solver: Solver[Any, Any], rtol: float) -> dict[str, float]:
        found = layer.with_solver(replace(solver, rtol=rtol, max_steps=k)).solve(x)
        evals = float(found.evals.double().sum())
        spent = evals * square + mixing(solver, found.evals, config.hidden)
        return row(found.value, spent, spent, rtol=rtol, evaluations=round(evals / len(x), 2))

    return {
        "fixed iterations": k,
        "PSNR, dB": round(best, 2),
        "coordinates": len(x),
        "ways": {
            "delta": [updated(tau, previous=False) for tau in config.taus],
            "as published": [updated(tau, previous=True) for tau in config.taus],
            "Picard, stopped early": [stopped(Picard(), rtol) for rtol in config.rtols],
            "Anderson, stopped early": [stopped(Anderson(), rtol) for rtol in config.rtols],
        },
    }


def mixing(solver: Solver[Any, Any], evals: Tensor, n: int) -> float:
    """Return the multiply-adds of Anderson's Gram matrices and sums, all samples together."""
    if not isinstance(solver, Anderson):
        return 0.0
    mixes = ((evals - 1).clamp_min(0) // solver.period).double().sum()
    return float(mixes) * (solver.memory**2 + solver.memory) * n


def allowed(rows: list[dict[str, float]]) -> dict[str, float] | None:
    """Return the row that cuts most of those that lose at most `LOSS`."""
    fine = [row for row in rows if row["loss, dB"] <= LOSS]
    return max(fine, key=lambda row: row["cut"], default=None)


def drawn(found: dict[str, Any], folder: Path) -> str:
    """Draw the loss of each way against what it cut, a panel a model and signal."""
    panels = {
        name: {
            way: ([100 * row["cut"] for row in rows], [row["loss, dB"] for row in rows])
            for way, rows in each["ways"].items()
        }
        for name, each in found.items()
    }
    figure = plotting.tradeoff_figure(
        panels, x="multiply-adds cut (%)", y="loss (dB)", limit=LOSS, columns=3
    )
    return plotting.save(figure, folder / "inr.png").name


def main(config: Config, results: Path = RESULTS, images: Path = IMAGES) -> None:
    """Train, measure, draw; write experiments/results/inr.json."""
    record, parts, console = Record("inr", config), Parts(config.work, config), Console()
    found: dict[str, Any] = {}
    for cell in CELLS:
        for name in config.signals:
            model, training = trained(cell, name, config, parts)
            x, y = signal(name, config)
            row = parts(f"{cell}-{name}-rows", lambda m=model, x=x, y=y: measure(m, x, y, config))
            best = {way: allowed(rows) for way, rows in row["ways"].items()}
            found[f"{cell}, {name}"] = {**training, f"best within {LOSS} dB": best, **row}
            console.print(cell, name, training, f"{row['PSNR, dB']} dB", best, highlight=False)
    result = {
        "paper": PAPER,
        "signals": "china.jpg and flower.jpg of scikit-learn; the sound is synthesised",
        "rows": found,
        "figure": drawn(found, images),
    }
    console.print(f"Written to {record.write(result, results)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--work", type=Path, default=Config.work)
    parser.add_argument("--small", action="store_true", help="sizes for a core and a minute or two")
    parser.add_argument("--steps", type=int, help="of training")
    chosen = parser.parse_args()
    sizes = SMALL if chosen.small else {}
    sizes |= {} if chosen.steps is None else {"steps": chosen.steps}
    main(Config(device=chosen.device, work=chosen.work, **sizes))
