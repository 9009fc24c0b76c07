"""Train bounded networks, make equilibrium networks of them, fine-tune these, and certify all.

    python -m experiments.lben --preset small --data DIR [--jobs 2]     (a quarter of an hour, CPU)
    python -m experiments.lben --preset cifar-small --data DIR --jobs 2     (half an hour, CPU)
    python -m experiments.lben --preset fashion --data DIR [--jobs 6] [--device cuda]
    python -m experiments.lben --preset cifar --data DIR [--jobs 6]
    python -m experiments.lben --preset authors --data DIR --minutes 6      (twice)

Havens et al. (2023) claim that an explicit network (CPL, SLL, AOL, Sandwich) that is rewritten as
an LBEN and trained further has an improved certified accuracy. Per structure: the explicit network,
its LBEN before and after fine-tuning, with and without the penalty that keeps the structure, and
the explicit network trained further by the same steps; beside them an LBEN and a monDEQ from
scratch. Each part is kept in --work as soon as it is there, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from experiments.lben_certified import attacked, certified, paired, verdict
from experiments.lben_settings import PRESETS, SCRATCH, STRUCTURES, Config
from experiments.lben_training import Course, Images, OutOfTime, Watch, train
from experiments.results import Record, commit
from homotopy_deq.cells.bounds import gram_norm
from homotopy_deq.data import load
from homotopy_deq.lipschitz import MonDEQ, MonDEQCell
from homotopy_deq.models.lipschitz import BoundedModel, LBENNetwork
from homotopy_deq.training.checkpoint import replace_file
from solvers import Implicit, PeacemanRachford

LOOSE = PeacemanRachford(step_size=1.0, rtol=1e-2, max_steps=200)
"""As the authors solve in training."""
BACKWARD = Implicit(LOOSE)
"""By a splitting too: Anderson diverges on u = J^T u + v of an equilibrium with ||W|| > 1."""


@dataclass(frozen=True)
class Bench:
    """The images on the device, and the folder of what is finished."""

    config: Config
    train: Images
    test: tuple[Tensor, Tensor]
    make: Callable[[str], BoundedModel]
    watch: Watch

    @classmethod
    def of(cls, config: Config) -> Bench:
        data = load(
            config.dataset, config.data, limit=config.limit, test_limit=config.test_limit,
            seed=config.seed,
        )  # fmt: skip
        x, y, tx, ty = (
            t.to(config.device)
            for t in (data.train_images, data.train_labels, data.test_images, data.test_labels)
        )

        def make(kind: str) -> BoundedModel:
            torch.manual_seed(config.seed)
            given = {"mean": data.mean, "std": 1.0, "on_failure": "ignore"}
            if kind == "monotone":
                return monotone(data.shape, data.num_classes, config.sizes, given)
            maker = STRUCTURES.get(kind, LBENNetwork)
            made: BoundedModel = maker(data.shape, data.num_classes, **config.sizes, **given)
            return made

        images = Images(x, y, config.seed, config.pad, config.flip)
        return cls(config, images, (tx, ty), make, Watch(60 * config.minutes))

    def check(self) -> None:
        """Refuse to go on with what other settings made."""
        free = ("kinds", "rates", "minutes", "device", "data", "work", "out", "certify")
        settings = {k: v for k, v in asdict(self.config).items() if k not in free}
        file, said = self.file("settings", "txt"), json.dumps(settings, indent=1)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and file.read_text() != said:
            raise SystemExit(
                f"{file.parent} was made with other settings, see {file}. Choose another --work."
            )
        file.write_text(said)

    def file(self, part: str, suffix: str) -> Path:
        """Return the file of a part."""
        return self.config.work / self.config.name / f"{part.replace(' ', '_')}.{suffix}"

    def part(
        self, name: str, make: Callable[[], BoundedModel], course: Course | None, watch: Watch
    ) -> None:
        """Make a network, train it and certify it, unless that is done."""
        if self.file(name, "json").exists():
            return
        model = make().to(self.config.device)
        spent: dict[str, Any] = {}
        if course is not None:
            logits = _logits(model)
            spent = train(model, logits, self.train, course, self.file(name, "ckpt"), watch)
        model.eval()
        torch.save(model.state_dict(), self.file(name, "pt"))
        network = model.network()
        figures, own = certified(network, *self.test, self.config.certify)
        figures["attack"] = attacked(network, self.test[0], own, self.config.attack)
        np.savez_compressed(self.file(name, "npz"), **own)  # type: ignore[arg-type]
        row = {"part": name, "commit": commit(), "device": device_of(self.test[0])}
        row |= {"parameters": sum(p.numel() for p in model.parameters()), **spent, **figures}
        replace_file(self.file(name, "json"), json.dumps(row).encode())
        self.file(name, "ckpt").unlink(missing_ok=True)
        print(f"{name}: {row['clean']} {row['36/255']} {spent.get('seconds')} s", flush=True)

    def kept(self, name: str, kind: str) -> BoundedModel:
        """Return the network of a finished part."""
        model = self.make(kind).to(self.config.device)
        model.load_state_dict(torch.load(self.file(name, "pt"), map_location=self.config.device))
        return model.eval()

    def lben(self, kind: str) -> BoundedModel:
        """Return the LBEN of an explicit network, to be trained as the authors do."""
        made: BoundedModel = self.kept(f"{kind} explicit", kind).to_lben()  # type: ignore[operator]
        made.layer = made.layer.with_solver(LOOSE, BACKWARD)
        made.layer.on_failure = "ignore"
        return made

    def run(self, kind: str) -> None:
        """Do all parts of a kind."""
        config = self.config
        if kind in SCRATCH:
            self.part(f"{kind} scratch", lambda: self._scratch(kind), config.course, self.watch)
            return
        first = f"{kind} explicit"
        self.part(first, lambda: self.make(kind), config.course, self.watch)
        self.part(f"{kind} lben", lambda: self.lben(kind), None, Watch())
        for rate, course in self.courses():
            with_penalty = replace(course, penalty=config.penalty)
            for name, make, way in (
                (f"{kind} tuned {rate:g}", lambda: self.lben(kind), course),
                (f"{kind} tuned {rate:g} penalty", lambda: self.lben(kind), with_penalty),
                (f"{kind} longer {rate:g}", lambda: self.kept(first, kind), course),
            ):
                self.part(name, make, way, Watch())

    def courses(self) -> Iterator[tuple[float, Course]]:
        for rate in self.config.rates:
            yield rate, replace(self.config.tuned, lr=rate)

    def _scratch(self, kind: str) -> BoundedModel:
        model = self.make(kind)
        model.layer = model.layer.with_solver(LOOSE, BACKWARD)
        model.layer.on_failure = "ignore"
        return model


def monotone(
    shape: tuple[int, int, int], classes: int, sizes: dict[str, int], given: dict[str, Any]
) -> BoundedModel:
    """Return monDEQs in the places of the LBENs of an `LBENNetwork`, with m = 1."""
    channels, patch = sizes["channels"], sizes["patch"]
    count, height, width = shape
    read = channels * (height // patch) * (width // patch)
    image = MonDEQ(count, sizes["depth"] * channels, channels, monotonicity=1.0,
                   grid=(height, width), kernel=sizes["kernel"])  # fmt: skip
    dense = MonDEQ(read, sizes["dense_depth"] * sizes["features"], sizes["features"],
                   monotonicity=1.0)  # fmt: skip
    pool = nn.AvgPool2d(patch, divisor_override=patch)
    body = nn.Sequential(image, pool, nn.Flatten(), dense)
    return BoundedModel(shape, body, sizes["features"], classes, **given)


def _logits(model: BoundedModel) -> Callable[[Tensor], Tensor]:
    """Return the logits by which to train: over the constant, which only a monDEQ may choose."""
    cells = [part for part in model.modules() if isinstance(part, MonDEQCell)]

    def logits(x: Tensor) -> Tensor:
        y: Tensor = model(x)
        for cell in cells:
            u, v = (gram_norm(cell.blocks(t)) for t in (cell.u, cell.v))
            y = y * (cell.cell.monotonicity / (u * v))
        return y

    return logits


def device_of(t: Tensor) -> str:
    """Name what computed."""
    return torch.cuda.get_device_name() if t.is_cuda else "cpu"


def collected(bench: Bench) -> dict[str, Any]:
    """Return all that is finished, and the paired tests between the finished."""
    config = bench.config
    folder = config.work / config.name
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    images = {row["part"]: np.load(bench.file(row["part"], "npz")) for row in rows}
    pairs: dict[str, Any] = {}
    structures = [kind for kind in STRUCTURES if f"{kind} explicit" in images]
    for kind in structures:
        for rate, _ in bench.courses():
            longer, rivals = f"{kind} longer {rate:g}", (f"{kind} explicit",)
            for tuned in (f"{kind} tuned {rate:g}", f"{kind} tuned {rate:g} penalty"):
                for other in (*rivals, longer):
                    if {tuned, other} <= set(images):
                        pairs[f"{tuned} - {other}"] = paired(
                            images[tuned], images[other], config.seed
                        )
    comparisons = 4 * max(1, len(pairs))  # four radii
    verdicts = {name: verdict(tests, comparisons) for name, tests in pairs.items()}
    return {
        "data": f"{len(bench.train.y)} train and {len(bench.test[1])} test images of "
        f"{config.dataset}",
        "rows": rows,
        "paired": pairs,
        "verdicts": verdicts,
        "comparisons": comparisons,
    }


def main(config: Config, jobs: int = 1) -> None:
    """Do what is left to do, and write what there is.

    Arguments:
        jobs: processes, each with a kind of its own; small networks leave most of a GPU idle.
    """
    record = Record(config.name, config)
    if torch.device(config.device).type == "cuda":
        torch.set_float32_matmul_precision("high")  # for training: certificates are in double
    if jobs > 1:
        spread(config, jobs)
        config = replace(config, minutes=0.0)  # they have trained as long as they may
    bench = Bench.of(config)
    bench.check()
    for kind in config.kinds:
        try:
            bench.run(kind)
        except OutOfTime:
            print(f"{kind}: out of time; the same command goes on", flush=True)
            break
    found = collected(bench)
    spent = sum(row.get("seconds", 0) + row["seconds to certify"] for row in found["rows"])
    path = record.write(found, config.out, seconds=spent)
    for name, said in found["verdicts"].items():
        print(f"{name}: {said}")
    print(f"Written to {path}")


def spread(config: Config, jobs: int) -> None:
    """Run this command once for each kind, so many at a time, and wait; what fails is run after."""
    waiting, running = list(config.kinds), dict[str, subprocess.Popen[bytes]]()
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    while waiting or running:
        while waiting and len(running) < jobs:
            kind = waiting.pop(0)
            words = [*sys.argv[1:], "--jobs", "1", "--only", kind, "--out", str(config.work)]
            running[kind] = subprocess.Popen(
                [sys.executable, "-m", "experiments.lben", *words],
                env={**os.environ, "OMP_NUM_THREADS": threads},
            )
        running = {kind: process for kind, process in running.items() if process.poll() is None}
        time.sleep(0.2)


def parsed(words: list[str] | None = None) -> tuple[Config, int]:
    """Return what a command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="fashion")
    parser.add_argument("--data", type=Path, help="folder of the images")
    parser.add_argument("--work", type=Path, help="folder of what is finished")
    parser.add_argument("--out", type=Path, help="folder of the JSON")
    parser.add_argument("--device", help="cuda where there is one, else cpu")
    parser.add_argument("--minutes", type=float, help="training in this call, fine-tuning aside")
    parser.add_argument("--limit", type=int, help="train images")
    parser.add_argument("--steps", type=int, help="of a training from scratch")
    parser.add_argument("--rates", type=float, nargs="+", help="of the fine-tunings")
    parser.add_argument("--only", help="one structure, or lben or monotone")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    asked = parser.parse_args(words)
    given = {
        name: getattr(asked, name)
        for name in ("data", "work", "out", "device", "minutes", "limit", "rates")
        if getattr(asked, name) is not None
    }
    config = replace(PRESETS[asked.preset], **given)
    config = replace(config, rates=tuple(config.rates))
    if asked.steps is not None:
        config = replace(config, course=replace(config.course, steps=asked.steps, seconds=0.0))
    if asked.only is not None:
        if asked.only not in (*STRUCTURES, *SCRATCH):
            parser.error(f"--only is one of {', '.join((*STRUCTURES, *SCRATCH))}.")
        config = replace(config, kinds=(asked.only,))
    return config, asked.jobs


if __name__ == "__main__":
    main(*parsed())
