"""Train the rest-point HomoODE on 10,000 images of Fashion-MNIST; kill a second run and resume it.

    python -m experiments.fashion_mnist --data DIR

Runs `homotopy-deq train --model homoode --dataset fashion-mnist --limit 10000 --epochs 3` twice:
once undisturbed, and once killed with SIGKILL in the middle of the second epoch and resumed. The
two checkpoints must be equal byte by byte. Then measures the same weights under other solvers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.results import ROOT, Record
from homotopy_deq.training import CHECKPOINT, load_checkpoint

SOLVERS = ("rk4", "dopri5", "anderson", "steady-state")


@dataclass(frozen=True)
class Config:
    """The run, and when it is killed."""

    data: Path
    limit: int = 10_000
    epochs: int = 3
    kill_epoch: int = 2
    kill_batch: int = 50
    threads: int = 1
    seed: int = 0


def main(config: Config) -> None:
    """Train, kill, resume, compare, evaluate; write experiments/results/fashion_mnist.json."""
    console, record = Console(), Record("fashion_mnist", config)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.perf_counter()
        _wait(_start(config, folder / "unbroken"))
        seconds = time.perf_counter() - begin
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = _start(config, folder / "killed")
        with console.status("waiting to kill the second run"):
            place = _kill(process, folder / "killed" / CHECKPOINT, config)
        _wait(_start(config, folder / "killed", "--resume"))
        files = [folder / run / CHECKPOINT for run in ("unbroken", "killed")]
        identical = files[0].read_bytes() == files[1].read_bytes()
        meta = load_checkpoint(files[0]).meta
        passes = [word for solver in SOLVERS for word in ("--solver", solver)]
        words = ["evaluate", str(folder / "unbroken"), *passes, "--data", str(config.data)]
        _wait(_call(config, words + ["--json", str(folder / "found.json")]))
        found = json.loads((folder / "found.json").read_text())["results"]
    result: dict[str, Any] = {
        "data": meta["about"]["images"]["source"],
        "test accuracy": meta["test"]["accuracy"],
        "test images": meta["test"]["samples"],
        "validation accuracy": [epoch["validation"]["accuracy"] for epoch in meta["history"]],
        "seconds": round(seconds, 1),
        "processor seconds": round(used.ru_utime + used.ru_stime, 1),
        "killed after": f"epoch {place['epoch']} and {place['batch']} batches",
        "checkpoints identical": identical,
        "forward passes": found,
    }
    console.print(f"test accuracy {meta['test']['accuracy']:.2%}, identical: {identical}")
    console.print(f"Written to {record.write(result)}")
    sys.exit(0 if identical else 1)


def _start(config: Config, out: Path, *more: str) -> subprocess.Popen[bytes]:
    words = f"train --model homoode --dataset fashion-mnist --limit {config.limit}".split()
    words += ["--epochs", str(config.epochs), "--seed", str(config.seed), "--save-every", "5"]
    return _call(config, [*words, "--data", str(config.data), "--out", str(out), *more])


def _call(config: Config, words: list[str]) -> subprocess.Popen[bytes]:
    # Bits are the same for the same number of threads.
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-m", "homotopy_deq.cli", *words], env=environment)


def _kill(process: subprocess.Popen[bytes], file: Path, config: Config) -> dict[str, int]:
    """Kill the run once it is where it is to be killed; return where its checkpoint stands."""
    while process.poll() is None:
        if file.exists():
            place: dict[str, int] = load_checkpoint(file).meta["place"]
            if place["epoch"] + 1 == config.kill_epoch and place["batch"] >= config.kill_batch:
                process.send_signal(signal.SIGKILL)
                process.wait()
                return place
        time.sleep(0.2)
    raise RuntimeError("the run ended before it could be killed: raise its epochs or its limit.")


def _wait(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise RuntimeError(f"{process.args} exited with {process.returncode}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of Fashion-MNIST")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    chosen = parser.parse_args()
    main(Config(chosen.data.resolve(), threads=chosen.threads))
