"""Train HomoODE on CIFAR-10 with the hyper-parameters of its release, beside its peers.

    python -m experiments.cifar10 --data DIR                         # 20,000 images on two cores
    python -m experiments.cifar10 --data DIR --limit 0 --epochs 16 --jobs 4      # all, on a GPU

One `homotopy-deq train` a model, all with the same budget: the published form, the form with a rest
point, a Neural ODE and an augmented one. Everything is kept in --work and gone on with when the
command is given again; --minutes stops the trainings, which lose nothing. The release trains for
300 epochs.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.kept import made, making
from experiments.results import Record, environment
from homotopy_deq.training import CHECKPOINT, METRICS, load_checkpoint, read_metrics

MODELS = {
    "HomoODE, as published": "--model homoode --no-rest-point",
    "HomoODE with a rest point": "--model homoode --rest-point",
    "Neural ODE": "--model neural-ode",
    "augmented Neural ODE": "--model augmented-neural-ode",
}


@dataclass(frozen=True)
class Config:
    """The budget, which is the same for every model."""

    data: Path
    work: Path
    limit: int = 20_000
    epochs: int = 6
    precision: str = "no"
    cpu: bool = False
    jobs: int = 1
    minutes: float | None = None
    seed: int = 0


def main(config: Config) -> None:
    """Train each model, or go on with it; write cifar10.json, or cifar10_cuda.json, of results."""
    on_gpu = torch.cuda.is_available() and not config.cpu
    console, record = Console(), Record("cifar10_cuda" if on_gpu else "cifar10", config)
    config.work.mkdir(parents=True, exist_ok=True)
    folders = {
        name: config.work / name.lower().replace(",", "").replace(" ", "-") for name in MODELS
    }
    with ThreadPoolExecutor(config.jobs) as pool:
        list(pool.map(lambda name: train(config, folders[name], MODELS[name]), MODELS))
    rows = {name: figures(folder) for name, folder in folders.items() if folder.exists()}
    for name, row in rows.items():
        console.print(
            f"{name}: {row['epochs']} epochs, validation {row['validation accuracy'][-1:]}, "
            f"test {row['test accuracy']}, evaluations {row['evaluations'][-1:]}",
            highlight=False,
        )
    kept = made([folders[name] for name in rows])
    result = {"models": rows, "calls killed, their last seconds unknown": kept.killed}
    console.print(f"Written to {record.write(result, started=kept.started, seconds=kept.seconds)}")


def train(config: Config, folder: Path, words: str) -> None:
    """Train a model until it is done, or the time is over."""
    file = folder / CHECKPOINT
    if file.exists() and load_checkpoint(file).meta["test"]:
        return
    command = [sys.executable, "-m", "homotopy_deq.cli", "train", *words.split()]
    command += ["--dataset", "cifar10", "--data", str(config.data), "--out", str(folder)]
    command += ["--epochs", str(config.epochs), "--precision", config.precision]
    command += ["--limit", str(config.limit)] if config.limit else []
    command += ["--cpu"] if config.cpu else []
    command += ["--resume"] if file.exists() else []
    log = folder.with_name(f"{folder.name}.log")
    with making(folder), log.open("a") as out:
        process = subprocess.Popen(command, env=environment(), stdout=out, stderr=out)
        try:
            process.wait(None if config.minutes is None else 60 * config.minutes)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # it writes its checkpoint and ends
            process.wait()
            return
        if process.returncode:
            raise RuntimeError(f"{folder.name} exited with {process.returncode}: see {log}.")


def figures(folder: Path) -> dict[str, Any]:
    """Return what a run has found up to now."""
    meta = load_checkpoint(folder / CHECKPOINT).meta
    epochs = read_metrics(folder / METRICS)
    train = meta["about"]["images"]["train"] * (1 - meta["about"]["training"]["validation"])
    return {
        "epochs": len(epochs),
        "train images": round(train),
        "test accuracy": None if meta["test"] is None else meta["test"]["accuracy"],
        "evaluations at test": None if meta["test"] is None else meta["test"]["nfe"],
        "validation accuracy": [e["validation"]["accuracy"] for e in epochs],
        "evaluations": [e["train"]["nfe"] for e in epochs],
        "evaluations from zero": [e["start"]["nfe_zero"] for e in epochs if "start" in e],
        "seconds an epoch": [e["seconds"] for e in epochs],
        "images a second": [round(train / e["seconds"], 1) for e in epochs],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/cifar10"), help="folder of the runs"
    )
    parser.add_argument("--limit", type=int, default=Config.limit, help="train images; 0 for all")
    parser.add_argument("--epochs", type=int, default=Config.epochs)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    parser.add_argument("--jobs", type=int, default=1, help="models trained side by side")
    parser.add_argument("--minutes", type=float, help="of training in this call")
    chosen = parser.parse_args()
    main(Config(**vars(chosen) | {"data": chosen.data.resolve(), "work": chosen.work.resolve()}))
