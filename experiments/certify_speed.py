"""Time certification beside the cold run of the first version, on the same models and images.

    python -m experiments.certify_speed --data DIR        # of Fashion-MNIST; without, digits alone

The twelve configurations are those of the first version's README: two data sets, three models, and
two sigmas. Each model is trained once (and kept in --models, as `experiments.certify` keeps it).
Its weights and images go to a process of the old package, unpacked from the commit --before, and to
one of today's. Image by image the old one certifies cold (every sample solved from the model's own
start by Anderson to 1e-4), then today's by verified votes; and group by group both decide at a
radius of sigma, old cold and new verified. Each finished configuration is kept in --work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from experiments import certify
from experiments.certify_compared import agreement, ratio, told, verdict, verdicts
from experiments.parts import Parts
from experiments.results import RESULTS, ROOT, Record
from experiments.versions import Worker, unpacked
from homotopy_deq.certification import Clean, Smoothing, Verified
from homotopy_deq.certification.noise import Phase
from homotopy_deq.certification.requirements import state_size
from homotopy_deq.cli.certification.votes import PAYS
from homotopy_deq.cli.trained import Trained
from homotopy_deq.data import ImageData, load, stratified_order
from homotopy_deq.models import ImageModel
from homotopy_deq.training.checkpoint import weights

BEFORE = "3b860a6"
SHARED = (
    "shape", "num_classes", "hidden", "pool", "dropout", "mean", "std", "contraction",
    "monotonicity", "kernel",
)  # fmt: skip
"""What both versions' constructors take."""
SAME = 1e-3
"""Relative difference of logits that are those of one network, each solved to 1e-4."""


@dataclass(frozen=True)
class Config:
    """What is certified, and how often.

    Arguments:
        data: folder of Fashion-MNIST; None for the digits alone.
        images: whose largest radius is certified.
        deciding: images that a decision is made about, `group` at a time.
        selecting: n0 of a decision today, beside one with the n0 of both.
        before: a commit, or a folder that holds the package.
        minutes: no further configuration is begun after so many.
    """

    data: Path | None = None
    images: int = 10
    samples: int = 10_000
    n0: int = 100
    deciding: int = 64
    group: int = 64
    selecting: int = 10
    alpha: float = 1e-3
    batch: int = 2000
    models: tuple[str, ...] = tuple(certify.MODELS)
    sigmas: tuple[float, ...] = (0.25, 0.5)
    sizes: dict[str, dict[str, Any]] = field(default_factory=lambda: certify.SIZES)
    before: str = BEFORE
    minutes: float | None = None
    threads: int = 1
    device: str = "cpu"
    work: Path = Path("runs/certify_speed")
    trained: Path = Path("runs/certify")
    seed: int = 0


def main(config: Config, out: Path = RESULTS) -> None:
    """Measure each configuration; write certify_speed.json when all are there."""
    torch.set_num_threads(config.threads)
    ends = None if config.minutes is None else time.monotonic() + 60 * config.minutes
    console, record = Console(), Record("certify_speed", config)
    parts = Parts(config.work, replace(config, minutes=None))
    rows: dict[str, Any] = {}
    names = [n for n in config.sizes if n != "fashion-mnist" or config.data is not None]
    cases = [(d, m, s) for d in names for s in config.sigmas for m in config.models]
    with tempfile.TemporaryDirectory() as folder:
        old = unpacked(config.before, Path(folder))
        for dataset, model, sigma in cases:
            if ends is not None and time.monotonic() > ends:
                console.print(f"{len(rows)} of {len(cases)} are done: give the command again.")
                return
            name = f"{dataset}, {model}, sigma {sigma:g}"
            part = name.replace(", ", "-").replace(" ", "-")
            rows[name] = parts(part, partial(measure, config, old, dataset, model, sigma))
            console.print(f"{name}: {rows[name]['faster']}", highlight=False)
    spent = sum(row["seconds"] for row in rows.values())
    path = record.write({"configurations": rows, "verdict": verdict(rows)}, out, seconds=spent)
    console.print(f"Written to {path}")


def measure(config: Config, old: Path, dataset: str, name: str, sigma: float) -> dict[str, Any]:
    """Certify and decide some images by both versions, in turn."""
    trained = model_of(config, dataset, name, sigma)
    since = time.perf_counter()
    data = load(dataset, config.data if dataset == "fashion-mnist" else None)
    few, size = "verified clean", state_size(trained.model)
    whole = "verified tangent" if size <= PAYS else few  # as the command line chooses
    noise = {"sigma": sigma, "n": config.samples, "n0": config.n0, "alpha": config.alpha,
             "batch": config.batch}  # fmt: skip
    fewer = noise | {"n0": config.selecting}
    radius: list[list[dict[str, Any]]] = [[], []]
    asked: list[list[dict[str, Any]]] = [[], [], []]
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        hand_over(config, trained, data, folder)
        program = (ROOT / "experiments" / "certify_worker.py").read_text()
        with Worker(old, program, folder) as before, Worker(ROOT, program, folder) as now:
            check_same(before.first["logits"], now.first["logits"])

            def certified_by(worker: Worker, policy: str, k: int) -> dict[str, Any]:
                return worker(policy=policy, smoothing=noise, places=[k], radius=None)

            def decided_by(
                worker: Worker, policy: str, places: list[int], how: dict[str, Any] = noise
            ) -> dict[str, Any]:
                return worker(policy=policy, smoothing=how, places=places, radius=sigma)

            for worker, policy in ((before, "cold"), (now, whole), (now, few)):  # warm up
                certified_by(worker, policy, 0)
                decided_by(worker, policy, [0])
            for k in range(config.images):
                radius[0].append(certified_by(before, "cold", k))
                radius[1].append(certified_by(now, whole, k))
            for start in range(0, config.deciding, config.group):
                places = list(range(start, min(start + config.group, config.deciding)))
                asked[0].append(decided_by(before, "cold", places))
                asked[1].append(decided_by(now, few, places))
                asked[2].append(decided_by(now, few, places, fewer))
        limit = least(trained.model, data.test_images[0].float() / 255, noise)
    certified = dict(zip(("cold, before", "now"), map(told, radius), strict=True))
    decided = dict(zip(("cold, before", "now, same n0", "now"), map(told, asked), strict=True))
    return {
        "state": size,
        "policy": whole,
        "radius": certified,
        "limit, CPU seconds an image": limit,
        "agreement": agreement(*(each["certificates"] for each in certified.values())),
        "decide": decided,
        "verdicts": verdicts(*(each["certificates"] for each in decided.values())),
        "faster": {
            "radius": ratio(certified, "now"),
            "decide": ratio(decided, "now"),
            "decide, same n0": ratio(decided, "now, same n0"),
        },
        "seconds": time.perf_counter() - since,
    }


@torch.no_grad()
def least(model: ImageModel, image: Tensor, noise: dict[str, Any]) -> float:
    """Return the CPU seconds that noise, the stem and one evaluation of every sample take."""
    smoothing = Smoothing(**noise)
    session: Any = Verified(Clean()).prepare(model)(image)

    def spent() -> float:
        since = time.process_time()
        for phase, samples in ((Phase.SELECT, smoothing.n0), (Phase.ESTIMATE, smoothing.n)):
            for drawn in smoothing.noise.stream(0, phase, smoothing.chunks(samples), image.shape):
                x, condition = session.condition(smoothing.noise.onto(image, drawn))
                session.model.layer.equation(condition)(x)  # of any z
        return time.process_time() - since

    return statistics.median(spent() for _ in range(3))


def model_of(config: Config, dataset: str, name: str, sigma: float) -> Trained:
    """Return a model trained with noise, trained now where it is not there."""
    folder = config.trained / f"{dataset}-{name}-{sigma:g}"
    data = None if dataset == "digits" or config.data is None else config.data.resolve()
    how = certify.Config(dataset, data, config.trained, **config.sizes[dataset])
    certify.train(how, folder, certify.MODELS[name], sigma)
    return Trained.of(folder)


def hand_over(config: Config, trained: Trained, data: ImageData, folder: Path) -> None:
    """Write what a worker reads: the model, its weights and the images."""
    model = trained.model
    shared = {k: v for k, v in model.config.items() if k in SHARED}
    about = {
        "model": {**shared, "kernel": shared["kernel"] or None},  # 0 was no word for none then
        "threads": config.threads,
        "device": config.device,
    }
    (folder / "about.json").write_text(json.dumps(about))
    save_file(weights(model), folder / "weights.safetensors")
    order = stratified_order(data.test_labels, config.seed)[: max(config.images, config.deciding)]
    shown = {"images": data.test_images[order], "labels": data.test_labels[order], "indices": order}
    save_file({k: v.contiguous() for k, v in shown.items()}, folder / "images.safetensors")


def check_same(one: list[list[float]], other: list[list[float]]) -> None:
    """Raise unless both versions compute the same network."""
    a, b = torch.tensor(one), torch.tensor(other)
    gap = float((a - b).abs().max() / b.abs().max())
    if not gap <= SAME:
        raise SystemExit(f"the versions' logits differ by {gap:.1e}: not the same network.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST; without, digits alone")
    parser.add_argument("--images", type=int, default=Config.images, help="to find radii of")
    parser.add_argument("--deciding", type=int, default=Config.deciding, help="images to decide on")
    parser.add_argument("--before", default=BEFORE, help="a commit, or a folder with the package")
    parser.add_argument("--minutes", type=float, help="begin no configuration after so many")
    parser.add_argument("--threads", type=int, default=Config.threads)
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--work", type=Path, default=Config.work, help="what is done")
    parser.add_argument("--trained", type=Path, default=Config.trained, help="the models")
    main(Config(**vars(parser.parse_args())))
