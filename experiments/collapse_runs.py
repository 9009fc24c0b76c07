"""The runs of `experiments.neural_collapse`: what is trained on what, and how one is measured."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from homotopy_deq.data import ImageData, load
from homotopy_deq.theory import UnconstrainedFeatures, make_imbalanced, minority_cosine
from homotopy_deq.theory.peers import Descent, Sizes, deq_peer, explicit_peer, right_by_class

PEERS = ("deq", "explicit", "explicit-weak")
RATIOS, SPLITS = (100, 50, 10), ((5, 5), (3, 7), (7, 3))


@dataclass(frozen=True)
class Config:
    """Where images and runs are, and the sizes of every run.

    Arguments:
        most: images of a class of the majority; of every class where balanced.
        terminal: how many times as long balanced classes are trained on: to collapse takes long
            after the last error.
        minutes: no run is begun that would end later.
    """

    fashion: Path
    cifar10: Path | None = None
    cifar100: Path | None = None
    work: Path = Path("runs/neural_collapse")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    workers: int = 1
    minutes: float | None = None
    most: int = 200
    channels: int = 8
    features: int = 64
    contraction: float = 0.9
    steps: int = 400
    terminal: int = 2
    batch: int = 128
    rate: float = 3e-3
    decay: float = 2e-2
    points: int = 10
    seeds: int = 3
    test_limit: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Case:
    """A training set: its images' source and how its classes are sized, R = 1 for balanced."""

    data: str
    ratio: int
    majority: int
    minority: int

    @property
    def name(self) -> str:
        split = f"R{self.ratio}-{self.majority}-{self.minority}"
        return f"{self.data}-{'balanced' if self.ratio == 1 else split}"


@dataclass(frozen=True)
class Job:
    """One run."""

    case: Case
    peer: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.case.name}-{self.peer}-{self.seed}"


def cases(config: Config) -> list[Case]:
    """Return the training sets, the most wanted first."""
    fashion = [Case("fashion-mnist", 1, 5, 5)]
    fashion += [Case("fashion-mnist", ratio, *split) for split in SPLITS for ratio in RATIOS]
    found = fashion[:2]
    if config.cifar10 is not None:
        found += [Case("cifar10", 1, 5, 5), Case("cifar10", 100, 5, 5)]
    found += fashion[2:]
    if config.cifar100 is not None:
        found += [Case("cifar100", 1, 50, 50), Case("cifar100", 100, 50, 50)]
    return found


def jobs(config: Config) -> list[Job]:
    """Return the runs in order: pairs of peers of one seed side by side."""
    return [
        Job(case, peer, config.seed + k)
        for case in cases(config)
        for k in range(config.seeds)
        for peer in PEERS
    ]


@cache
def images(config: Config, name: str) -> ImageData:
    """Load a data set, its images on the device."""
    roots = {"fashion-mnist": config.fashion, "cifar10": config.cifar10,
             "cifar100": config.cifar100}  # fmt: skip
    data = load(name, roots[name], test_limit=config.test_limit)
    held = {f: getattr(data, f) for f in ("train_images", "test_images", "test_labels")}
    return replace(data, **{f: t.to(config.device) for f, t in held.items()})


def steps(config: Config, case: Case) -> int:
    """Return how many steps a network is trained for."""
    return config.steps * (config.terminal if case.ratio == 1 else 1)


def decay(config: Config, peer: str) -> float:
    """Return the decay that a peer is trained with."""
    return config.decay * (1 - config.contraction if peer == "explicit-weak" else 1)


@cache
def ideal(config: Config, case: Case, peer: str) -> tuple[float, float | None]:
    """Return the least objective of networks of the peer's gain, and the minority's cosine there.

    It is a lower bound for the peer, too: the cross entropy and the squares are convex in the
    features, and ||z|| <= gain ||x||.
    """
    gain = 1 / (1 - config.contraction) if peer == "deq" else 1.0
    many, few = [float(case.ratio)] * case.majority, [1.0] * case.minority
    model = UnconstrainedFeatures(tuple(many + few), len(many + few), decay(config, peer), gain)
    if case.ratio == 1:
        return model.balanced_optimum()[1], None
    w, _, least = model.solve()
    return least, minority_cosine(w, list(range(case.majority, case.majority + case.minority)))


def measure(config: Config, job: Job) -> dict[str, Any]:
    """Train and test one network."""
    since, case, data = time.perf_counter(), job.case, images(config, job.case.data)
    most = min(config.most, int(torch.bincount(data.train_labels).min()))
    index = make_imbalanced(
        data.train_labels, case.ratio, case.majority, case.minority, most=most, seed=job.seed
    )
    x, y = data.train_images[index.to(config.device)], data.train_labels[index].to(config.device)
    sizes = Sizes(
        data.shape, data.num_classes, config.channels, config.features, config.contraction
    )
    network = (deq_peer if job.peer == "deq" else explicit_peer)(sizes, job.seed)
    network.to(config.device)
    of = config.batch, config.rate, decay(config, job.peer), config.points, job.seed
    descent = Descent(steps(config, case), *of)
    few = list(range(case.majority, case.majority + case.minority)) if case.ratio > 1 else None
    points = descent.train(network, x, y, few)
    right = right_by_class(network, data.test_images, data.test_labels)
    last, k = points[-1], case.majority
    bound, cosine = ideal(config, case, job.peer)
    return {
        **asdict(case),
        "peer": job.peer,
        "seed": job.seed,
        "train images": len(y),
        "parameters": sum(p.numel() for p in network.parameters()),
        "points": points,
        "last": last,
        "lower bound": bound,
        "predicted minority cosine": cosine,
        "vertices": last["nc2_means"] < 0.05,
        "self-dual": last["nc3"] < 0.05,
        "accuracy": sum(right) / len(right),
        "majority accuracy": sum(right[:k]) / k,
        "minority accuracy": sum(right[k:]) / len(right[k:]),
        "seconds": time.perf_counter() - since,
    }
