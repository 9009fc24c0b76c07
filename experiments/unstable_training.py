"""Train a deliberately unstable DEQ under Robust and under Anderson alone.

    python -m experiments.unstable_training

A dense tanh cell whose recurrent weights start at spectral radius 3 classifies the built-in digits.
Anderson fails on many samples: what it returns for them is no equilibrium, and the implicit
gradient there is that of nothing. The same seeds and batches for both; losses, accuracies, the
share of samples that converged and the spectral radius by step. Also measures what it saves to
start each sample at its equilibrium of the epoch before (warm starts).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.results import IMAGES, Record, bare, plain
from homotopy_deq import Anderson, ImplicitLayer, NewtonKrylov, Robust
from homotopy_deq.cells import DenseCell
from homotopy_deq.plotting import save
from solvers import GMRES, ArcLength, Implicit, Solver, solved_by


@dataclass(frozen=True)
class Config:
    seed: int = 0
    hidden: int = 16
    gain: float = 3.0
    samples: int = 256
    batch: int = 64
    epochs: int = 8
    lr: float = 1e-2
    rtol: float = 1e-4
    images: Path = IMAGES


def digits(config: Config) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(config.seed))
    x, y = (torch.from_numpy(pixels) / 16).float()[order], torch.from_numpy(labels)[order]
    train, test = slice(0, config.samples), slice(config.samples, config.samples + 256)
    return x[train], y[train], x[test], y[test]


def train(
    config: Config, solver: Solver[Any, Any], *, warm: bool = False, gain: float | None = None
) -> dict[str, Any]:
    torch.manual_seed(config.seed)
    x, y, x_test, y_test = digits(config)
    cell = DenseCell(64, config.hidden, gain=config.gain if gain is None else gain)
    # The backward equation u = J^T u + v is linear: GMRES solves it whatever the radius of J.
    backward = Implicit(NewtonKrylov(rtol=1e-5, linear=GMRES(config.hidden)))
    layer = ImplicitLayer(cell, solver, backward, on_failure="ignore")
    head = nn.Linear(config.hidden, 10)
    optimizer = torch.optim.Adam([*layer.parameters(), *head.parameters()], lr=config.lr)
    rows: list[dict[str, Any]] = []
    last: dict[int, Tensor] = {}
    who: dict[str, int] = {}
    began = time.perf_counter()
    for epoch in range(config.epochs):
        shuffle = torch.Generator().manual_seed(config.seed + epoch)
        for index in torch.randperm(len(x), generator=shuffle).split(config.batch):
            known = warm and epoch > 0
            z0 = torch.stack([last[int(k)] for k in index]) if known else None
            found = layer.solve(x[index], z0)
            logits = head(found.value)
            loss = F.cross_entropy(logits, y[index])
            optimizer.zero_grad()
            loss.backward()
            weights = [*layer.parameters(), *head.parameters()]
            size = float(nn.utils.clip_grad_norm_(weights, math.inf))
            if math.isfinite(size):
                optimizer.step()
            if warm:
                last.update(zip(index.tolist(), found.value.detach(), strict=True))
            if isinstance(solver, Robust):
                for name, count in solved_by(solver, found).items():
                    who[name] = who.get(name, 0) + count
            rows.append({
                "epoch": epoch,
                "loss": loss.item(),
                "accuracy": (logits.argmax(1) == y[index]).float().mean().item(),
                "converged": found.converged.float().mean().item(),
                "gradient norm": size,
                "evals": found.evals.float().mean().item(),
                "radius": radius(cell),
            })  # fmt: skip
    with torch.no_grad():
        test = layer.solve(x_test)
        right = (head(test.value).argmax(1) == y_test) & test.converged
        accuracy = (head(test.value).argmax(1) == y_test).float().mean().item()
    return {
        "test accuracy": round(accuracy, 4),
        "test accuracy, right and at an equilibrium": round(right.float().mean().item(), 4),
        "test converged": round(test.converged.float().mean().item(), 4),
        "seconds": round(time.perf_counter() - began, 1),
        "solved by": who,
        "steps": rows,
    }


def radius(cell: DenseCell) -> float:
    return float(torch.linalg.eigvals(cell.recurrent.weight.detach()).abs().max())


def summary(run: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Return the run without its steps, and what a sample cost from the second epoch on."""
    late = [row for row in run["steps"] if row["epoch"] > 0]
    last = [row for row in run["steps"] if row["epoch"] == epochs - 1]
    return {name: value for name, value in run.items() if name != "steps"} | {
        "evaluations a sample, after the first epoch": round(mean(r["evals"] for r in late), 1),
        "loss in the last epoch": round(mean(r["loss"] for r in last), 4),
        "converged in the last epoch": round(mean(r["converged"] for r in last), 4),
    }


def curves(runs: dict[str, dict[str, Any]], path: Path) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    titles = {
        "loss": "training loss", "converged": "samples at an equilibrium",
        "gradient norm": "norm of the gradient", "radius": "spectral radius of W",
    }  # fmt: skip
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, titles.items(), strict=True):
        for color, (name, run) in zip(("#0072B2", "#D55E00"), runs.items(), strict=False):
            axes.plot([row[key] for row in run["steps"]], color=color, label=name, linewidth=1.3)
        axes.set_title(title, fontsize=9)
        axes.grid(True, color="0.92", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if key == "gradient norm":
            axes.set_yscale("log")
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("training step", fontsize=9)
    return save(figure, path)


def main(config: Config = Config()) -> None:  # noqa: B008  (frozen)
    torch.set_num_threads(1)
    record = Record("unstable_training", config)
    ladder = {"Robust": Robust(rtol=config.rtol), "Anderson alone": Anderson(rtol=config.rtol)}
    runs = {}
    for name, solver in ladder.items():
        runs[name] = train(config, solver)
        print(name, summary(runs[name], config.epochs), flush=True)
    starts: dict[str, Any] = {}
    for gain in (0.4, 1.0):
        for name, solver in (
            ("Anderson", Anderson(rtol=config.rtol)),
            ("NewtonKrylov", NewtonKrylov(rtol=config.rtol)),
            ("ArcLength", ArcLength(rtol=config.rtol)),
        ):
            for warm in (False, True):
                key = f"gain {gain}, {name}, {'warm' if warm else 'cold'}"
                found = summary(train(config, solver, warm=warm, gain=gain), config.epochs)
                starts[key] = found
                print(key, found, flush=True)
    drawn = curves(runs, config.images / "unstable_training.png")
    record.write({
        "summary": {name: summary(run, config.epochs) for name, run in runs.items()},
        "warm starts": starts,
        "figure": plain(drawn),
        "steps": {name: run["steps"] for name, run in runs.items()},
    })  # fmt: skip


if __name__ == "__main__":
    bare(__doc__)
    main()
