"""Kernels of infinitely wide DEQs beside DEQs of a width, on Fashion-MNIST.

    python -m experiments.nngp --data DIR [--device cuda]

Learns 5,000 images with the NNGP and tangent kernel and by training DEQs of several widths, each
once with the true classes and once with a fifth of them wrong; tests the outputs of 10,000 random
networks of width 1000 against the predicted Gaussian, as the paper does; and measures the squared
error of the covariance up to width 4096. Each finished part and each epoch is kept in
--work, and the same call goes on where one was stopped. Writes nngp.json and nngp.png.
"""

from __future__ import annotations

import argparse
import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console

from experiments.results import IMAGES, RESULTS, Record
from homotopy_deq import plotting
from homotopy_deq.cli.report import counting
from homotopy_deq.data import load, stratified_order
from homotopy_deq.plotting.nngp import learning_figure, learnt
from homotopy_deq.theory import DEQKernel
from homotopy_deq.theory.studies import Claim, NNGPStudy, Part, carry_out, learning
from homotopy_deq.theory.studies.study import Advance, Result

WRONG = (0.0, 0.2)


@dataclass(frozen=True)
class Config:
    """Images, widths, and how much is drawn."""

    name: ClassVar[str] = "nngp"

    data: Path
    device: str
    work: Path
    images: int = 5000
    test_images: int = 10_000
    widths: tuple[int, ...] = (256, 1024)
    runs: int = 2
    epochs: int = 30
    seconds: float = 150.0
    networks: int = 10_000
    draws: int = 400
    covariance_widths: tuple[int, ...] = (64, 128, 256, 512, 1024, 2048, 4096)
    seed: int = 0

    def parts(self) -> Mapping[str, Part]:
        """Return the parts by name: the kernels, the trained networks, the random ones."""
        found = {}
        for wrong in WRONG:
            found[f"kernels_{wrong:g}"] = Part(
                2 * len(learning.RIDGES), partial(self._kernels, wrong)
            )
        for run in range(self.runs):
            for wrong in WRONG:
                for n in self.widths:
                    found[f"deq_{n}_{wrong:g}_{run}"] = Part(
                        self.epochs,
                        partial(self._trained, n, wrong, run),
                    )
        random = NNGPStudy(
            networks=self.networks, draws=self.draws, widths=self.covariance_widths, seed=self.seed
        )
        at = torch.device(self.device)
        found["outputs"] = Part(2, lambda advance: random.outputs(advance, at))
        found["width"] = Part(
            2 * len(self.covariance_widths),
            lambda advance: random.width(advance, at),
        )
        return found

    def claims(self, found: Mapping[str, Result]) -> Sequence[Claim]:
        """Return none: the tables say it."""
        return []

    def _kernels(self, wrong: float, advance: Advance) -> Result:
        data, since, found = self.classes(wrong), time.perf_counter(), {}
        for name in ("nngp", "ntk"):
            peak = _peak(self.device)
            found[name] = learning.regress(name, DEQKernel(), data, advance)
            found[name]["peak MiB"] = round(peak())
            found[name]["inputs"] = len(data.x)
        return {"seconds": round(time.perf_counter() - since, 1), **found}

    def _trained(self, width: int, wrong: float, run: int, advance: Advance) -> Result:
        return learning.train(
            width, self.classes(wrong), epochs=self.epochs, batch=128, seed=self.seed + run,
            advance=advance, seconds=self.seconds,
            kept=self.work / f"deq_{width}_{wrong:g}_{run}.safetensors",
        )  # fmt: skip

    def classes(self, wrong: float) -> learning.Classes:
        """Return the images, a share of them with wrong classes, on the device."""
        data = load("fashion-mnist", self.data)
        a = stratified_order(data.train_labels, self.seed)[: self.images]
        b = stratified_order(data.test_labels, self.seed)[: self.test_images]
        parts = data.train_images[a], data.train_labels[a], data.test_images[b], data.test_labels[b]
        found = learning.Classes.of(*(part.to(self.device) for part in parts))
        return found.flipped(wrong, self.seed)


def table(config: Config, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return accuracies: each model, with the true classes and with some of them wrong."""
    rows = []
    for name in ("nngp", "ntk"):
        row: dict[str, Any] = {"model": f"{name}, no ridge"}
        for wrong in WRONG:
            first, *_ = found[f"kernels_{wrong:g}"][name]["rows"]
            row[f"{wrong:.0%} wrong"] = {"train": first["train"], "test": first["test"]}
        rows.append(row)
    for n in config.widths:
        row = {"model": f"DEQ of width {n}, trained"}
        for wrong in WRONG:
            runs = [found[f"deq_{n}_{wrong:g}_{run}"] for run in range(config.runs)]
            row[f"{wrong:.0%} wrong"] = {
                part: sum(run[part] for run in runs) / len(runs) for part in ("train", "test")
            } | {
                "test of each run": [run["test"] for run in runs],
                "ended by": [run["ended by"] for run in runs],
                "epochs": [len(run["curve"]) for run in runs],
                "core seconds": [run["core seconds"] for run in runs],
                "norm of W": [run["norm of W"] for run in runs],
            }
        rows.append(row)
    return rows


def main(config: Config, out: Path, picture: Path) -> dict[str, Any]:
    """Do what is left to do, write the JSON and the picture, print the table."""
    record, console, since = Record("nngp", config), Console(), time.perf_counter()
    found = carry_out(config, config.work, counting)
    rows = table(config, found)
    result = {
        "table": rows,
        "ridges": {
            f"{name}, {wrong:.0%} wrong": found[f"kernels_{wrong:g}"][name]
            for wrong in WRONG
            for name in ("nngp", "ntk")
        },
        "networks": learnt(
            {name: found[name] for name in found if name[:3] == "deq" and name[-2:] == "_0"}
        )["networks"],
        "outputs": {
            name: {key: each[key] for key in each if key not in ("histogram", "three outputs")}
            for name, each in found["outputs"].items()
        },
        "the paper's KS": {"tanh": 0.0049, "relu": 0.0061},
        "width": found["width"],
    }
    for row in rows:
        console.print(row, highlight=False)
    console.print(f"wrote {plotting.save(learning_figure(result), picture)}")
    console.print(f"wrote {record.write(result, out)} after {time.perf_counter() - since:.0f} s")
    return result


def _peak(device: str) -> Callable[[], float]:
    """Return what tells the most memory in MiB: of a GPU, since now and beyond what is in use now;
    elsewhere the whole process's, ever."""
    if torch.device(device).type != "cuda":
        return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    return lambda: (torch.cuda.max_memory_allocated() - before) / 2**20


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of Fashion-MNIST")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--work", type=Path, default=Path("runs/nngp"), help="where parts are kept")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where nngp.json goes")
    parser.add_argument("--picture", type=Path, default=IMAGES / "theory_nngp_learning.png")
    parser.add_argument("--images", type=int, default=5000, help="images that are learnt")
    parser.add_argument("--tiny", action="store_true", help="all of it, small")
    parser.add_argument(
        "--minutes", type=float, default=20.0, help="of one core, for the trainings"
    )
    chosen = parser.parse_args()
    small: dict[str, Any] = {"images": chosen.images}
    if chosen.tiny:
        small = {
            "images": 300, "test_images": 200, "widths": (32, 64), "runs": 1, "epochs": 3,
            "networks": 200, "draws": 50, "covariance_widths": (32, 64),
        }  # fmt: skip
    config = Config(chosen.data.resolve(), chosen.device, chosen.work, **small)
    trainings = len(config.widths) * config.runs * len(WRONG)
    seconds = math.ceil(60 * chosen.minutes / trainings)
    main(
        replace(config, seconds=seconds),
        chosen.out,
        chosen.picture,
    )
