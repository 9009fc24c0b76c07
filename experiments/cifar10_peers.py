"""Train HomoODE on CIFAR-10 by this library and by torchdiffeq, and a DEQ beside it by torchdeq.

    python -m experiments.cifar10_peers --data DIR --epochs 12          # all images, on a GPU
    python -m experiments.cifar10_peers --data DIR --limit 500 --epochs 1 --cpu

HomoODE as published, with its release's hyper-parameters but for the epochs (300 there), and a DEQ
of the same parts: by `homotopy_deq.training`, with the start that learns, and as one writes them
with a peer alone, torchdiffeq from zero, torchdeq from where that start begins. Same batches,
augmentation, Adam and rates, the same cell, stem and head, dopri5 at 1e-3, or Anderson to 1e-2 in
30 evaluations at most; the weights that are best on validation see the test images once. Each
training is a process of its own, all side by side, so that seconds tell of a shared machine;
`experiments.cifar_step` times steps alone. --minutes ends them wherever they are; with --minutes 0
none is begun, and what they have written is told. Writes cifar10_peers_cuda.json,
cifar10_peers.json on a CPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from experiments import cifar_step
from experiments.results import Record, device, environment
from homotopy_deq import DEQ, HomoODE
from homotopy_deq.data import ImageData, load, seek
from homotopy_deq.machine import peak_memory
from homotopy_deq.settings import TrainConfig
from homotopy_deq.training import (
    CHECKPOINT,
    METRICS,
    Observer,
    Place,
    load_checkpoint,
    read_metrics,
    train,
)
from homotopy_deq.training.checkpoint import replace_file, weights
from homotopy_deq.training.optim import cosine, set_rate, task_optimizer
from homotopy_deq.training.sets import Sets

STARTED = datetime.now(timezone.utc).isoformat(timespec="seconds")
FLOW, ROOTS = "Unroll, RungeKutta", "DEQ"
TRAININGS = {
    "HomoODE": FLOW,
    "HomoODE by torchdiffeq": FLOW,
    "DEQ": ROOTS,
    "DEQ by torchdeq": ROOTS,
}


@dataclass(frozen=True)
class Config:
    """The budget, the same for each training.

    Arguments:
        data: folder of CIFAR-10.
        work: folder of the runs.
        limit: train images; 0 for all.
        epochs: of each.
        minutes: after so many the trainings end, wherever they are.
        cpu: leave a GPU alone.
    """

    data: Path
    work: Path
    limit: int = 0
    epochs: int = 12
    minutes: float | None = None
    cpu: bool = False
    seed: int = 0


def main(config: Config, names: tuple[str, ...] = tuple(TRAININGS)) -> None:
    """Run the trainings side by side; write what they found."""
    on_gpu = torch.cuda.is_available() and not config.cpu
    console = Console()
    record = Record("cifar10_peers" + ("_cuda" if on_gpu else ""), config)
    config.work.mkdir(parents=True, exist_ok=True)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    for name in names if config.minutes != 0 else ():
        words = [sys.executable, "-m", "experiments.cifar10_peers", *sys.argv[1:], "--only", name]
        with (config.work / f"{name}.log").open("w") as log:
            processes[name] = subprocess.Popen(words, env=environment(), stdout=log, stderr=log)
    ends = None if config.minutes is None else time.monotonic() + 60 * config.minutes
    stopped: set[str] = set()
    while running := {n: p for n, p in processes.items() if p.poll() is None}:
        if ends is not None and time.monotonic() > ends:
            stopped |= running.keys()
            for process in running.values():
                process.terminate()
                process.wait()
        time.sleep(1)
    failed = [n for n, p in processes.items() if p.returncode and n not in stopped]
    rows = {
        name: json.loads(file.read_text())
        for name in names
        if (file := told(config, name)).exists()
    }
    for name, row in rows.items():
        last = row["epochs"][-1]
        console.print(
            f"{name}: {len(row['epochs'])} epochs, validation {last['validation accuracy']:.4f}, "
            f"test {row['test accuracy']}, evaluations {last['evaluations']:.1f}, "
            f"{last['images a second']:.0f} images a second, {last['peak memory, MiB']:.0f} MiB",
            highlight=False,
        )
    began = min((row["started"] for row in rows.values()), default=None)
    seconds = max((sum(e["seconds"] for e in row["epochs"]) for row in rows.values()), default=None)
    path = record.write({"trainings": rows}, started=began, seconds=seconds)
    console.print(f"Written to {path}")
    if failed:
        raise SystemExit(f"{', '.join(failed)} failed: see {config.work}/*.log.")


def told(config: Config, name: str) -> Path:
    """Return the file that a training writes after each epoch."""
    return config.work / f"{name}.json"


def one(config: Config, name: str) -> None:
    """Train one, and write after each epoch what it has found up to now."""
    torch.manual_seed(config.seed)
    data = load("cifar10", config.data, limit=config.limit or None)
    model = cifar_step.build(cifar_step.Config(), TRAININGS[name])
    how = TrainConfig(epochs=config.epochs, lr=1e-3, flip=0.2, pad=4, seed=config.seed)
    run = by_peer if " by " in name else by_us
    run(config, name, model, data, how)


def by_us(
    config: Config, name: str, model: HomoODE | DEQ, data: ImageData, how: TrainConfig
) -> None:
    """Train by this library, which writes an epoch's figures itself."""
    accelerator, folder = Accelerator(cpu=config.cpu), config.work / name
    measures: Any = {"peak memory, MiB": peak_memory(accelerator.device)}

    def write(test: float | None = None) -> None:
        rows = [
            {
                "validation accuracy": each["validation"]["accuracy"],
                "evaluations": each["train"]["nfe"],
                "evaluations from zero": each["start"]["nfe_zero"],
                "seconds": each["seconds"],
                "images a second": taken / each["seconds"],
                "peak memory, MiB": each["peak memory, MiB"],
            }
            for each in read_metrics(folder / METRICS)
        ]
        keep(config, name, model, rows, test)

    class Written(Observer):
        """Keep the figures of each epoch."""

        def epoch(self, place: Place, record: Any) -> None:
            write()

    taken = round(len(data.train_labels) * (1 - how.validation))
    train(
        model, data, how, folder, accelerator=accelerator, measures=measures, overwrite=True,
        observers=(Written(),),
    )  # fmt: skip
    write(load_checkpoint(folder / CHECKPOINT).meta["test"]["accuracy"])


def by_peer(
    config: Config, name: str, model: HomoODE | DEQ, data: ImageData, how: TrainConfig
) -> None:
    """Train in the loop that one writes around a peer, on the batches of `by_us`."""
    accelerator = Accelerator(cpu=config.cpu)
    sets = Sets.of(data, how, accelerator, full=False)
    memory = peak_memory(accelerator.device)
    model.to(accelerator.device)
    solve = cifar_step.by_torchdeq(model) if name.endswith("torchdeq") else by_torchdiffeq(model)
    optimizer = task_optimizer(model.task_parameters(), how.lr)
    rows: list[dict[str, float]] = []
    best, kept, total = -1.0, weights(model), how.epochs * len(sets.train)
    for epoch in range(how.epochs):
        began, spent, seen = time.monotonic(), 0.0, 0
        model.train()
        seek(sets.train, epoch, 0)
        for batch, (images, labels) in enumerate(sets.train):
            set_rate(
                optimizer, cosine(epoch * len(sets.train) + batch, total, how.lr, how.final_lr)
            )
            logits, evaluations = solve(images)
            optimizer.zero_grad()
            loss = F.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            seen, spent = seen + len(labels), spent + evaluations * len(labels)
        accuracy = share(model, solve, sets.validation)
        if accuracy > best:
            best, kept = accuracy, weights(model)
        seconds = time.monotonic() - began
        rows.append(
            {
                "validation accuracy": accuracy,
                "evaluations": spent / seen,
                "seconds": round(seconds, 3),
                "images a second": seen / seconds,
                "peak memory, MiB": memory(),
            }
        )
        keep(config, name, model, rows, None)
    model.load_state_dict(kept)
    keep(config, name, model, rows, share(model, solve, sets.test))


def by_torchdiffeq(model: HomoODE | DEQ) -> Callable[[Tensor], tuple[Tensor, float]]:
    """Return what gives logits and evaluations, from zero by torchdiffeq alone."""
    from torchdiffeq import odeint

    def solve(images: Tensor) -> tuple[Tensor, float]:
        x = model.condition(images)
        condition, calls = model.layer.condition(x), 0

        def field(t: Tensor, z: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return model.layer.cell(z, *condition)

        z0, ends = torch.zeros_like(model.start(x)), torch.tensor([0.0, 1.0], device=x.device)
        z = odeint(field, z0, ends, rtol=1e-3, atol=1e-3, method="dopri5")
        return model.head(z[-1]), calls

    return solve


@torch.no_grad()
def share(model: HomoODE | DEQ, solve: Any, batches: Any) -> float:
    """Return the share of images that are classified rightly."""
    model.eval()
    right, seen = 0, 0
    for images, labels in batches:
        right += int((solve(images)[0].argmax(1) == labels).sum())
        seen += len(labels)
    return right / seen


def keep(
    config: Config, name: str, model: HomoODE | DEQ, rows: list[Any], test: float | None
) -> None:
    """Write what a training has found."""
    count = sum(p.numel() for p in model.task_parameters())
    body = {
        "started": STARTED,
        "device": device(),
        "parameters": count,
        "test accuracy": test,
        "epochs": rows,
    }
    replace_file(told(config, name), json.dumps(body).encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of CIFAR-10")
    parser.add_argument("--work", type=Path, default=Path("runs/cifar10_peers"), help="of the runs")
    parser.add_argument("--limit", type=int, default=Config.limit, help="train images; 0 for all")
    parser.add_argument("--epochs", type=int, default=Config.epochs)
    parser.add_argument("--minutes", type=float, help="end after so many, wherever they are")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    parser.add_argument("--only", choices=tuple(TRAININGS), help="this training, in this process")
    given = vars(parser.parse_args())
    only = given.pop("only")
    asked = Config(**given | {"data": given["data"].resolve(), "work": given["work"].resolve()})
    if only:
        one(asked, only)
    else:
        main(asked)
