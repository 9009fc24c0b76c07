"""Train bounded networks, make equilibrium networks of them, fine-tune these, and certify all.

    python -m experiments.lben --preset small --data DIR [--jobs 2]     (40 core-minutes, CPU)
    python -m experiments.lben --preset cifar-small --data DIR --jobs 2     (half an hour, CPU)
    python -m experiments.lben --preset digits     (some minutes, CPU)
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
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from experiments.lben_certified import attacked, certified, paired, verdict
from experiments.lben_settings import PRESETS, SCRATCH, STRUCTURES, Config, monotone
from experiments.lben_training import Course, Images, OutOfTime, Watch, logits_of, train
from experiments.parts import Parts
from experiments.results import Record, commit
from homotopy_deq.data import load
from homotopy_deq.models.lipschitz import BoundedModel, LBENNetwork
from homotopy_deq.training.checkpoint import replace_file
from solvers import Anderson, Implicit, PeacemanRachford

LOOSE = PeacemanRachford(step_size=1.0, rtol=1e-2, max_steps=200, accelerated=Anderson(memory=6))
"""To the tolerance of the authors' training, accelerated: a tuned W is large at few frequencies."""
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
    parts: Parts

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
        return cls(config, images, (tx, ty), make, Watch(60 * config.minutes), parts_of(config))

    def file(self, part: str, suffix: str) -> Path:
        """Return the file of a part."""
        return self.parts.folder / f"{_stem(part)}.{suffix}"

    def part(
        self, name: str, make: Callable[[], BoundedModel], course: Course | None, watch: Watch
    ) -> None:
        """Make a network, train it and certify it, unless that is done."""
        row = lambda: self._row(name, make, course, watch)  # noqa: E731
        self.parts(f"{_stem(name)}.row", row)
        self.file(name, "ckpt").unlink(missing_ok=True)

    def _row(
        self, name: str, make: Callable[[], BoundedModel], course: Course | None, watch: Watch
    ) -> dict[str, Any]:
        model = make().to(self.config.device)
        spent: dict[str, Any] = {}
        if course is not None:
            file = self.file(name, "ckpt")
            spent = train(model, logits_of(model), self.train, course, file, watch)
        self.parts.weights(_stem(name), model.eval(), lambda: None)
        network = model.network()
        figures = self.parts(f"{_stem(name)}.certified", lambda: self._certified(name, network))
        attack = attacked(
            network, self.test[0], np.load(self.file(name, "npz")), self.config.attack
        )
        row = {"part": name, "commit": commit(), "device": device_of(self.test[0])}
        row |= {"parameters": sum(p.numel() for p in model.parameters()), **spent, **figures}
        print(f"{name}: {row['clean']} {row['36/255']} {spent.get('seconds')} s", flush=True)
        return row | {"attack": attack}

    def _certified(self, name: str, network: nn.Module) -> dict[str, Any]:
        """Certify, and keep what is of each image."""
        figures, own = certified(network, *self.test, self.config.certify)
        data = io.BytesIO()
        np.savez_compressed(data, **own)  # type: ignore[arg-type]
        replace_file(self.file(name, "npz"), data.getvalue())
        return figures

    def kept(self, name: str, kind: str) -> BoundedModel:
        """Return the network of a finished part."""
        model = self.make(kind).to(self.config.device)
        model.load_state_dict(load_file(self.file(name, "safetensors")))
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


FREE = ("kinds", "rates", "minutes", "device", "data", "work", "out", "certify")
"""Settings that may change between the calls for one folder of parts."""


def parts_of(config: Config) -> Parts:
    """Return the folder of what is finished, of one commit and one set of settings."""
    free: dict[str, Any] = dict.fromkeys(FREE)
    return Parts(config.work / config.name, replace(config, **free))


def _stem(part: str) -> str:
    return part.replace(" ", "_")


def device_of(t: Tensor) -> str:
    """Name what computed."""
    return torch.cuda.get_device_name() if t.is_cuda else "cpu"


def collected(bench: Bench) -> dict[str, Any]:
    """Return all that is finished, and the paired tests between the finished."""
    config = bench.config
    files = sorted(bench.parts.folder.glob("*.row.json"))
    rows = [json.loads(path.read_text()) for path in files]
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
    parts_of(config)  # one process notes whose the parts are
    if jobs > 1:
        spread(config, jobs)
        config = replace(config, minutes=0.0)  # they have trained as long as they may
    bench = Bench.of(config)
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
