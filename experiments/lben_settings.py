"""What the experiment on bounded networks trains, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.lben_training import Course
from experiments.results import RESULTS, ROOT
from homotopy_deq.lipschitz import MonDEQ
from homotopy_deq.models.lipschitz import (
    AOLNetwork,
    BoundedModel,
    CPLNetwork,
    SandwichNetwork,
    SLLNetwork,
)

STRUCTURES: dict[str, Callable[..., Any]] = {
    "cpl": CPLNetwork,
    "sll": SLLNetwork,
    "aol": AOLNetwork,
    "sandwich": SandwichNetwork,
}
SCRATCH = ("lben", "monotone")


@dataclass(frozen=True)
class Config:
    """What is trained, and for how long.

    Arguments:
        name: of the JSON.
        kinds: structures, and networks from scratch.
        sizes: of the networks, see `SLLNetwork`.
        course: of a network from scratch.
        tuned: of a fine-tuning; its rates and penalty are below.
        rates: the first is the authors'.
        penalty: of what leaves the structure.
        pad, flip: augmentation.
        minutes: of training in this call, fine-tuning aside.
        attack: images that are attacked inside their certified balls.
        certify: images that are certified at a time.
    """

    name: str = "lben_fashion_mnist"
    dataset: str = "fashion-mnist"
    data: Path | None = None
    work: Path = ROOT / "runs" / "lben"
    out: Path = RESULTS
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    seed: int = 0
    limit: int | None = 20_000
    test_limit: int | None = None
    kinds: tuple[str, ...] = (*STRUCTURES, *SCRATCH)
    sizes: dict[str, int] = field(
        default_factory=lambda: {
            "channels": 8,
            "depth": 2,
            "kernel": 3,
            "patch": 4,
            "features": 256,
            "dense_depth": 2,
        }  # fmt: skip
    )
    course: Course = Course(steps=1200)  # noqa: RUF009  (frozen)
    tuned: Course = Course(steps=234, constant=True, clip=1.0)  # noqa: RUF009
    rates: tuple[float, ...] = (1e-7, 1e-4)
    penalty: float = 0.1
    pad: int = 0
    flip: bool = False
    minutes: float = 60.0
    attack: int = 128
    certify: int = 50


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


AUTHORS = {"channels": 8, "depth": 4, "kernel": 5, "patch": 4, "features": 512, "dense_depth": 2}
PRESETS = {
    "fashion": Config(),
    "small": Config(
        name="lben_small", limit=10_000, course=Course(steps=400, batch=128),
        tuned=Course(steps=78, batch=128, constant=True, clip=1.0), attack=100,
        sizes={"channels": 4, "depth": 2, "kernel": 3, "patch": 4, "features": 64,
               "dense_depth": 1},
    ),
    "cifar": Config(
        name="lben_cifar10", dataset="cifar10", limit=None, course=Course(steps=2000),
        pad=4, flip=True,
    ),
    "cifar-small": Config(
        name="lben_cifar10_small", dataset="cifar10", limit=5000, test_limit=1000,
        course=Course(steps=400, batch=128), attack=100, pad=4, flip=True,
        tuned=Course(steps=39, batch=128, constant=True, clip=1.0),
        sizes={"channels": 4, "depth": 2, "kernel": 3, "patch": 4, "features": 64,
               "dense_depth": 1},
    ),
    "authors": Config(
        name="lben_authors", dataset="cifar10", limit=None, kinds=("sll",), sizes=AUTHORS,
        course=Course(seconds=720.0), tuned=Course(steps=390, constant=True, clip=1.0),
        pad=4, flip=True, minutes=6.0,
    ),
    "digits": Config(
        name="lben_digits", dataset="digits", limit=None, course=Course(steps=200, batch=64),
        tuned=Course(steps=40, batch=64, constant=True, clip=1.0), rates=(1e-4,), attack=64,
        sizes={"channels": 4, "depth": 2, "kernel": 3, "patch": 4, "features": 32,
               "dense_depth": 1},
    ),
    "tiny": Config(
        name="lben_tiny", dataset="digits", limit=256, test_limit=64,
        sizes={"channels": 2, "depth": 1, "kernel": 3, "patch": 4, "features": 8, "dense_depth": 1},
        course=Course(steps=20, batch=64), tuned=Course(steps=4, batch=64, constant=True, clip=1.0),
        rates=(1e-3,), attack=16, certify=64, kinds=("sll", "monotone"),
    ),
}  # fmt: skip
"""Also the authors' sizes (their 1000 epochs of training are here 12 minutes)."""
