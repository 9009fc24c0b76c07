"""What the library writes and reads again: small, and made in seconds."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from homotopy_deq import DEQ
from homotopy_deq.certification import Certificate, Journal, Tally, read
from homotopy_deq.certification.evidence import rule_of
from homotopy_deq.certification.journal import ALONE, LINES, TIMING
from homotopy_deq.cli.comparison.runs import MEASURED, measured
from homotopy_deq.cli.trained import Trained
from homotopy_deq.data import load
from homotopy_deq.data.idx import read_idx
from homotopy_deq.models import ImageModel
from homotopy_deq.pretrained import CONFIG, WEIGHTS
from homotopy_deq.sealed import seal
from homotopy_deq.settings import tree
from homotopy_deq.theory.studies.study import Claim, Part, carry_out
from homotopy_deq.training import CHECKPOINT, METRICS, load_checkpoint, save_checkpoint
from homotopy_deq.training.checkpoint import replace_file
from homotopy_deq.training.observers import MetricsFile, Place, read_metrics
from tests.data.stored import below, write_zip
from tests.data.stored import tree as image_tree
from tests.test_cli import done

RUN = ["--hidden", 4, "--head", 8, "--groups", 2, "--limit", 100, "--epochs", 1, "--cpu"]
VOTES = {
    "smoothing": {"sigma": 0.25, "alpha": 0.001, "n": 100},
    "policy": {"name": "converged"},
    "images": {"count": 3},
}


def same(found: Any, wanted: Any) -> bool:
    return bool(found == wanted)


def part_of(found: Any, wanted: Any) -> bool:
    """What a torn last line costs is done again."""
    return bool(found.items() <= wanted.items())


@dataclass(frozen=True)
class Store:
    """Something on a disk.

    Arguments:
        name: of it, for the table.
        files: that it is read from, below its folder.
        make: writes them into an empty folder.
        read: returns what is believed of them, or None for what will be made anew.
        change: writes other contents into the folder, where the library does so.
        sealed: whether no altered byte of it may be believed.
        agrees: whether what was found is as it should be.
    """

    name: str
    files: tuple[str, ...]
    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    change: Callable[[Path], None] | None = None
    sealed: bool = True
    agrees: Callable[[Any, Any], bool] = same


def state(model: ImageModel) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in model.state_dict().items()}


def network(seed: int) -> ImageModel:
    torch.manual_seed(seed)
    return DEQ((1, 8, 8), hidden=4, head=8, groups=2, num_classes=3)


def read_run(folder: Path) -> Any:
    trained = Trained.of(folder)
    meta = trained.checkpoint.meta
    return state(trained.model), trained.settings.named(), meta["test"], meta["history"]


def change_run(folder: Path) -> None:
    stored = load_checkpoint(folder / CHECKPOINT)
    tensors = {k: t * 0 if k.endswith("stem.0.weight") else t for k, t in stored.tensors.items()}
    save_checkpoint(folder / CHECKPOINT, replace(stored, tensors=tensors))


def save_model(seed: int) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        network(seed).save_pretrained(folder, figures={"digits": {"accuracy": seed}})

    return save


def read_model(folder: Path) -> Any:
    return state(DEQ.from_pretrained(folder))


def certificate(index: int) -> Certificate:
    tally = Tally(selected=1, votes=80 + index, undecided=1, samples=100)
    return Certificate(index, index % 3, rule_of(VOTES).claim(tally), tally, evaluations=700)


def certify(upto: int, published: bool) -> Callable[[Path], None]:
    """Do what is left of so many images."""

    def write(folder: Path) -> None:
        journal, resume = Journal(folder, VOTES), (folder / CONFIG).exists()
        journal.begin(resume=resume)
        done = journal.done()
        for index in range(upto):
            if index not in done:
                journal.append(certificate(index), 1.0)
        if published:
            journal.keep(ALONE, {"images": 3, "samples": 5, "disagreements": 0})
            journal.publish(range(upto))

    return write


def read_certificates(folder: Path) -> Any:
    return read(folder), Journal.open(folder).kept(ALONE)


def read_parts(folder: Path) -> Any:
    return Journal.open(folder).done()


def measure(accuracy: float) -> Callable[[Path], None]:
    body = {"asked": None, "swapped": {"rk4": {"accuracy": accuracy}}, "refused": {}, "step": {}}
    return lambda folder: replace_file(folder / MEASURED, seal(body))


def read_measured(folder: Path) -> Any:
    run: Any = SimpleNamespace(folder=folder)
    return measured(run, None)


@dataclass(frozen=True)
class Sums:
    """A study of three sums."""

    name = "sums"

    def parts(self) -> Mapping[str, Part]:
        return {f"to {n}": Part(1, lambda advance, n=n: {"sum": sum(range(n))}) for n in (3, 5, 7)}

    def claims(self, found: Mapping[str, Any]) -> list[Claim]:
        return [Claim("sums grow", str(found["to 7"]["sum"]), True)]


class Silent:
    def __enter__(self) -> Callable[[int], None]:
        return lambda steps: None

    def __exit__(self, *why: object) -> None:
        return None


def study(folder: Path) -> Any:
    return carry_out(Sums(), folder, lambda name, steps: Silent())


def write_metrics(epochs: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        there = len(read_metrics(folder / METRICS))
        file = MetricsFile(folder / METRICS)
        file.begin(Place(there, 0, 5, 9))
        for epoch in range(there, epochs):
            file.epoch(Place(epoch + 1, 0, 5, 9), {"epoch": epoch + 1, "lr": 0.1})

    return write


def epochs_told(folder: Path) -> Any:
    return {record["epoch"]: record["lr"] for record in read_metrics(folder / METRICS)}


def zipped(folder: Path) -> None:
    files = {**below("train", image_tree(["cat", "ant"], 2, seed=1)),
             **below("test", image_tree(["cat", "ant"], 1, seed=2))}  # fmt: skip
    write_zip(folder / "images.zip", files)


def read_images(folder: Path) -> Any:
    found = load("imagefolder", folder / "images.zip")
    return found.classes, found.train_images.tolist(), found.test_images.tolist()


def idx(folder: Path) -> None:
    raw = bytes((0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 4, 0, 0, 0, 4)) + bytes(range(32))
    (folder / "images.gz").write_bytes(gzip.compress(raw, mtime=0))


def stores(template: Path) -> dict[str, Store]:
    """Return all of them, by name; what takes a training is copied from a folder made here."""

    def copy(*names: str) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            if not template.exists():
                done("train", "--out", template, *RUN)
            for name in names:
                shutil.copy(template / name, folder / name)

        return make

    every = [
        Store("run", (CHECKPOINT,), copy(CHECKPOINT), read_run, change_run),
        Store("settings", ("config.toml",), copy("config.toml"),
              lambda folder: tree.read(folder / "config.toml"), sealed=False),
        Store("metrics", (METRICS,), write_metrics(3), epochs_told, write_metrics(5),
              sealed=False, agrees=part_of),
        Store("saved model", (WEIGHTS, CONFIG), save_model(1), read_model, save_model(2)),
        Store("certificates", (CONFIG, LINES, TIMING, ALONE), certify(3, True),
              read_certificates),
        Store("unfinished certificates", (CONFIG, "parts/rank-0.jsonl"), certify(2, False),
              read_parts, certify(3, True), agrees=part_of),
        Store("comparison", (MEASURED,), measure(0.5), read_measured, measure(0.25)),
        Store("study", ("parts/to 3.json", "parts/to 5.json"), lambda f: void(study(f)), study,
              lambda f: void(study(f))),
        Store("zip file", ("images.zip",), zipped, read_images, sealed=False),
        Store("idx file", ("images.gz",), idx,
              lambda folder: read_idx(folder / "images.gz").tolist()),
    ]  # fmt: skip
    return {store.name: store for store in every}


def void(value: object) -> None:
    """Drop a value."""
