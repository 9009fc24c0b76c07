"""Certify a DEQ, a HomoODE and a monotone model by every policy, beside the cold full solve.

    python -m experiments.certify --dataset digits
    python -m experiments.certify --dataset fashion-mnist --data DIR

Trains three models with Gaussian noise of each sigma, then runs `homotopy-deq certify` on the
same images with the same noise: every sample solved in full from the model's own start (cold),
and each policy with its warm start; and `homotopy-deq decide` at one radius, cold and by verified
votes. Everything is kept in --work and gone on with when the experiment is started again; what
another commit made is refused, and the seconds written are those of all the runs, whichever call
made them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.kept import made, making
from experiments.results import ROOT, Record
from homotopy_deq.certification import Probable
from homotopy_deq.certification.summary import compare
from homotopy_deq.cli.certification.runs import CertifiedRun
from homotopy_deq.training import CHECKPOINT, load_checkpoint

RADII = (0.0, 0.25, 0.5, 0.75, 1.0)
SIZES: dict[str, dict[str, Any]] = {  # images of 16 channels, or vectors of 512 numbers
    "digits": {"hidden": 16, "kernel": 3, "train_images": 1438, "epochs": 15},
    "fashion-mnist": {"hidden": 512, "kernel": 0, "train_images": 10_000, "epochs": 6},
}
MODELS = {
    "deq": "--model deq --contraction 0.99",
    "homoode": "--model homoode --contraction 0.99",
    "monotone": "--model monotone --monotonicity 0.5 --lr 0.001",
}
COLD = "converged none"
RUNS = {
    COLD: "--policy converged --warm-start none",
    "verified tangent": "--policy verified --warm-start tangent",
    "audited serial 3": "--policy audited --warm-start serial --steps 3 --audit 1000",
    "truncated 3": "--policy truncated --steps 3",
}
DECIDE = {
    COLD: "--policy converged --warm-start none --solver anderson",
    "verified": "--policy verified",
}


@dataclass(frozen=True)
class Config:
    """The data, the models and how many images and noise samples are certified."""

    dataset: str
    data: Path | None
    work: Path
    hidden: int
    kernel: int
    train_images: int
    epochs: int
    images: int = 100
    samples: int = 10_000
    sigmas: tuple[float, ...] = (0.25, 0.5)
    batch: int = 2000
    threads: int = 1
    seed: int = 0


def main(config: Config) -> None:
    """Train, certify, decide; write experiments/results/certify_DATASET.json."""
    torch.set_num_threads(config.threads)  # of the runs, which are processes of their own
    console = Console()
    record = Record(f"certify_{config.dataset.replace('-', '_')}", config)
    rows: dict[str, Any] = {}
    folders: list[Path] = []
    for sigma in config.sigmas:
        for name, words in MODELS.items():
            folder = config.work / f"{config.dataset}-{name}-{sigma:g}"
            train(config, folder, words, sigma)
            test = load_checkpoint(folder / CHECKPOINT).meta
            # A HomoODE is certified at the equilibrium of its weights, whatever flow trained them.
            found = {each: certify(config, folder, each, sigma) for each in RUNS}
            figures = {k: described(each, found[COLD]) for k, each in found.items()}
            asked = {each: decide(config, folder, each, sigma) for each in DECIDE}
            folders += [folder, *(run.folder for run in (*found.values(), *asked.values()))]
            rows[f"{name}, sigma {sigma:g}"] = {
                "test accuracy": test["test"]["accuracy"],
                "test accuracy under noise": test["noisy_test"]["accuracy"],
                "runs": figures,
                "decide": {
                    "radius": sigma,
                    "whole cold run at that radius": float(
                        found[COLD].summary.accuracy([sigma]).accuracy[0]
                    ),
                    "runs": {k: decided(each, asked[COLD]) for k, each in asked.items()},
                },
            }
            for policy, each in figures.items():
                console.print(f"{name}, sigma {sigma:g}, {policy}: {each}", highlight=False)
            console.print(rows[f"{name}, sigma {sigma:g}"]["decide"], highlight=False)
    work = made(folders)
    killed = {"calls killed, their last seconds unknown": work.killed}
    result = {"radii": RADII, "models": rows, **killed}
    console.print(f"Written to {record.write(result, started=work.started, seconds=work.seconds)}")


def described(run: CertifiedRun, cold: CertifiedRun) -> dict[str, Any]:
    """Return a run's figures, and what it gains and loses beside the cold run."""
    summary, beside = run.summary, compare(run.summary, cold.summary)
    return {
        "certified accuracy": [float(a) for a in summary.accuracy(RADII).accuracy],
        "average certified radius": summary.acr,
        "abstained": summary.abstained,
        "undecided votes": summary.undecided,
        "evaluations a sample": summary.evaluations,
        "seconds an image": summary.seconds,
        "cold evaluations over these": beside.evaluations,
        "cold seconds over these": beside.time,
        "largest difference in certified accuracy": beside.difference,
        "at radius": beside.at,
    }


def decided(run: CertifiedRun, cold: CertifiedRun) -> dict[str, Any]:
    """Return the figures of decisions at one radius, beside those of the same task done cold."""
    stops = [c.claim.stop for c in run.certificates if isinstance(c.claim, Probable)]
    beside = compare(run.summary, cold.summary)
    return {
        "certified and correct": sum(c.correct for c in run.certificates) / len(stops),
        "open": stops.count("all samples drawn"),
        "samples an image": run.summary.samples,
        "evaluations a sample": run.summary.evaluations,
        "seconds an image": run.summary.seconds,
        "cold evaluations over these": beside.evaluations,
        "cold seconds over these": beside.time,
    }


def train(config: Config, folder: Path, words: str, sigma: float) -> None:
    """Train a model under noise, or go on where a killed experiment left off."""
    if (folder / CHECKPOINT).exists() and load_checkpoint(folder / CHECKPOINT).meta["test"]:
        return
    resume = ["--resume"] if (folder / CHECKPOINT).exists() else []
    sizes = f"--hidden {config.hidden} --kernel {config.kernel}"
    sizes += f" --limit {config.train_images} --epochs {config.epochs}"
    command = f"train {words} --dataset {config.dataset} {sizes} --noise {sigma:g}".split()
    call(config, folder, [*command, "--out", str(folder), *data(config), *resume])


def certify(config: Config, folder: Path, name: str, sigma: float) -> CertifiedRun:
    """Certify the images by one policy, and return what was found."""
    out = folder / name.replace(" ", "-")
    solver = [] if "verified" in name else ["--solver", "anderson"]
    return sampled(config, folder, out, ["certify", *RUNS[name].split(), *solver], sigma)


def decide(config: Config, folder: Path, name: str, sigma: float) -> CertifiedRun:
    """Answer "certified at radius sigma?" by one policy."""
    words = ["decide", "--radius", f"{sigma:g}", *DECIDE[name].split()]
    out = folder / f"decide-{name.replace(' ', '-')}"
    return sampled(config, folder, out, words, sigma)


def sampled(
    config: Config, folder: Path, out: Path, words: list[str], sigma: float
) -> CertifiedRun:
    """Return a finished run of certify or decide; run it, or go on with it, where it is not."""
    if not (out / "certificates.jsonl").exists():
        run(config, folder, out, words, sigma)
    return CertifiedRun.of(out)


def run(config: Config, folder: Path, out: Path, words: list[str], sigma: float) -> None:
    """Run certify or decide on a trained model in a folder."""
    numbers = f"--sigma {sigma:g} --n {config.samples} --limit {config.images}"
    more = f"--batch {config.batch} --out {out} --cpu".split() + data(config)
    resume = ["--resume"] if out.exists() else []
    call(config, out, [words[0], str(folder), *words[1:], *numbers.split(), *more, *resume])


def data(config: Config) -> list[str]:
    """Return the option that says where the images are."""
    return [] if config.data is None else ["--data", str(config.data)]


def call(config: Config, out: Path, words: list[str]) -> None:
    """Run the command line with the experiment's number of threads; it makes a folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "homotopy_deq.cli", *words]
    with making(out):
        subprocess.run(command, env=environment, check=True)


def config_of(description: str) -> Config:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--dataset", choices=tuple(SIZES), default="digits")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST")
    parser.add_argument("--work", type=Path, default=Path("runs/certify"), help="where runs go")
    parser.add_argument("--images", type=int, default=100, help="test images to certify")
    parser.add_argument("--samples", type=int, default=10_000, help="noise samples an image")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    chosen = parser.parse_args()
    if chosen.dataset == "fashion-mnist" and chosen.data is None:
        parser.error("fashion-mnist needs --data DIR")
    return Config(
        chosen.dataset,
        chosen.data and chosen.data.resolve(),
        chosen.work,
        **SIZES[chosen.dataset],
        images=chosen.images,
        samples=chosen.samples,
        threads=chosen.threads,
    )


if __name__ == "__main__":
    main(config_of(__doc__))
