"""Measure what each start of a solve is worth: accuracy, and evaluations at test time.

    python -m experiments.start                  # digits, one seed, some minutes; --seeds 3

HomoODE as published, HomoODE with a rest point, and a DEQ are trained with each start. A start is
judged by the evaluations of the test images' solves: those of the model's own solver, from the
start and from zero, and, where there is an equilibrium, those of Anderson to a residual of 1e-5.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.parts import Parts
from experiments.results import Record
from homotopy_deq import DEQ, Anderson, HomoODE
from homotopy_deq.data import load
from homotopy_deq.models import ImageModel
from homotopy_deq.training import TrainConfig, train

SIZES = {"hidden": 32, "head": 128, "pool": 4, "groups": 8}
MODELS: dict[str, tuple[type[ImageModel], dict[str, Any]]] = {
    "HomoODE, as published": (HomoODE, {"rest_point": False}),
    "HomoODE with a rest point": (HomoODE, {}),
    "DEQ": (DEQ, {}),
}
STARTS: dict[str, tuple[str, dict[str, Any]]] = {
    "none: zero": ("none", {}),
    "shared, never trained": ("shared", {"start_lr": 0.0}),
    "shared": ("shared", {}),
    "shared, 0.2 every step": ("shared", {"start_lr": 0.2, "start_every": 1}),
    "spatial": ("spatial", {}),
    "spatial, 0.2 every step": ("spatial", {"start_lr": 0.2, "start_every": 1}),
    "input": ("input", {}),
    "input, 0.2 every step": ("input", {"start_lr": 0.2, "start_every": 1}),
}
QUICK = "0.2 every step"  # the default of models with a rest point


@dataclass(frozen=True)
class Config:
    """The data and the training, which are the same for every start."""

    epochs: int = 3
    limit: int | None = None
    seeds: int = 1
    residual: float = 1e-5
    work: Path = field(default=Path("runs/start"))
    seed: int = 0


def measure(config: Config, kind: str, start: str, seed: int) -> dict[str, Any]:
    """Train one model from one start; return accuracy and evaluations on the test images."""
    images = load("digits", limit=config.limit)
    torch.manual_seed(seed)
    family, settings = MODELS[kind]
    name, rates = STARTS[start]
    about = {"mean": images.mean, "std": images.std, "on_failure": "ignore", "start": name}
    model = family(images.shape, images.num_classes, **SIZES, **settings, **about)
    training = TrainConfig(epochs=config.epochs, lr=3e-3, seed=seed, **rates)
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(model, images, training, Path(folder))
    seen = images.test_images.float() / 255
    with torch.no_grad():
        found = model.solve(seen)
        zero = model.solve(seen, torch.zeros_like(found.solution.value))
        row = {
            "accuracy": outcome.test["accuracy"],
            "evaluations": float(found.solution.evals.double().mean()),
            "from zero": float(zero.solution.evals.double().mean()),
        }
        if model.layer.rest_point:
            tight = model.with_solver(Anderson(rtol=config.residual, max_steps=200))
            own = tight.solve(seen)
            z, none = own.solution.value, tight.solve(seen, torch.zeros_like(own.solution.value))
            apart = (model.start(own.x) - z).flatten(1).norm(dim=1) / z.flatten(1).norm(dim=1)
            row |= {
                "to 1e-5": float(own.solution.evals.double().mean()),
                "to 1e-5 from zero": float(none.solution.evals.double().mean()),
                "solved": float(own.solution.converged.double().mean()),
                "distance from the equilibrium": float(apart.median()),
            }
    return row


def main(config: Config) -> None:
    """Measure every model and start; print a table and write experiments/results/start.json."""
    torch.set_num_threads(1)
    console, record, parts = Console(), Record("start", config), Parts(config.work, config)
    rows: dict[str, Any] = {}
    table = Table(title="What a start is worth: digits, test images")
    for column in ("model", "start", "accuracy", "evaluations", "from zero", "to 1e-5", "distance"):
        table.add_column(column)
    for kind, (_, settings) in MODELS.items():
        flows = settings.get("rest_point") is False
        for start in STARTS:
            if QUICK in start and not flows:
                continue
            runs = []
            for seed in range(config.seed, config.seed + config.seeds):
                with console.status(f"{kind}, {start}, seed {seed}"):
                    place = f"{kind}-{start}-{seed}".replace(" ", "-").replace(",", "")
                    runs.append(parts(place, lambda a=(kind, start, seed): measure(config, *a)))
            means = {key: sum(run[key] for run in runs) / len(runs) for key in runs[0]}
            rows.setdefault(kind, {})[start] = {"mean": means, "runs": runs}
            told = (
                means.get(key, math.nan) for key in ("to 1e-5", "distance from the equilibrium")
            )
            table.add_row(
                kind,
                start,
                f"{means['accuracy']:.2%}",
                f"{means['evaluations']:.1f}",
                f"{means['from zero']:.1f}",
                *(f"{value:.2f}" for value in told),
            )
    console.print(table)
    console.print(f"Written to {record.write(rows)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=Config.epochs)
    parser.add_argument("--limit", type=int, help="train images; all by default")
    parser.add_argument("--seeds", type=int, default=Config.seeds)
    parser.add_argument(
        "--work", type=Path, default=Path("runs/start"), help="folder of what is done"
    )
    main(Config(**vars(parser.parse_args())))
