"""A run that takes a second: a small model on a few of the built-in digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from homotopy_deq import DEQ, Anderson, HomoODE, Implicit
from homotopy_deq.data import ImageData, load
from homotopy_deq.models import ImageModel
from homotopy_deq.training import (
    Observer,
    Outcome,
    Place,
    SmoothTraining,
    Tally,
    TrainConfig,
    train,
)

# Everything that draws random numbers is on: dropout, augmentation, Hutchinson's probes, and the
# initial point's own optimiser takes every second step.
CONFIG = TrainConfig(
    epochs=2, batch=16, start_every=2, jacobian_penalty=0.1, residual_penalty=0.1, pad=1,
    save_every=0.0,
)  # fmt: skip


# All of the training for certification.
ALL = SmoothTraining(
    0.25, samples=2, adversary_steps=2, adversary_radius=0.25, consistency=5.0
)  # fmt: skip


def data() -> ImageData:
    return load("digits", limit=80, test_limit=40)


def model(images: ImageData, kind: type[ImageModel] = HomoODE, **settings: Any) -> ImageModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden": 4, "head": 8, "groups": 2, "dropout": 0.2}
    quick = {"solver": Anderson(rtol=1e-2), "gradient": Implicit(Anderson(rtol=1e-2))}
    return kind(images.shape, images.num_classes, **{**sizes, **quick, **settings})


def run(
    folder: Path,
    *observers: Observer,
    resume: bool = False,
    overwrite: bool = False,
    **changes: Any,
) -> Outcome:
    images = data()
    settings = {k: v for k, v in changes.items() if hasattr(CONFIG, k)}
    return train(
        model(images),
        images,
        replace(CONFIG, **settings),
        folder,
        observers=observers,
        resume=resume,
        overwrite=overwrite,
    )


class At:
    """Do something once so many batches are done."""

    def __init__(self, step: int, action: Any) -> None:
        self.step, self.action = step, action

    def begin(self, place: Place) -> None:
        pass

    def batch(self, place: Place, tally: Tally, rate: float) -> None:
        if place.step == self.step:
            self.action()

    def epoch(self, place: Place, record: Any) -> None:
        pass

    def end(self) -> None:
        pass


__all__ = ["ALL", "CONFIG", "DEQ", "At", "data", "model", "run"]
