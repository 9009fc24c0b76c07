"""Sizes and schedules that go with each data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

MODEL = ("hidden", "head", "pool", "groups", "dropout")


@dataclass(frozen=True)
class Recipe:
    """The settings of a data set that differ between data sets.

    Arguments:
        hidden: channels of the state.
        head: channels of the head.
        pool: grid on which the head averages.
        groups: at most so many groups in each GroupNorm.
        dropout: probability of dropping a channel, one mask per solve.
        lr: Adam's learning rate.
        residual_penalty: weight of the residual penalty, for models that have an equilibrium.
        start_every: the initial point takes a step every so many batches.
        start_lr: learning rate of the initial point's own SGD.
        flip: probability of a horizontal flip.
        pad: pixels of black around an image before it is cropped at random.
    """

    hidden: int = 64
    head: int = 256
    pool: int = 1
    groups: int = 32
    dropout: float = 0.1
    lr: float = 1e-3
    residual_penalty: float = 0.1
    start_every: int = 20
    start_lr: float = 0.02
    flip: float = 0.0
    pad: int = 0

    def model_arguments(self) -> dict[str, Any]:
        """Return what a model's constructor takes of this."""
        return {name: getattr(self, name) for name in MODEL}

    def training_arguments(self) -> dict[str, Any]:
        """Return the rest, which says how to train."""
        return {k: v for k, v in asdict(self).items() if k not in MODEL}


# Ours. Small centred images in which left and right, and the place of a stroke, matter: no flips,
# a head that sees where things are; learning rates for runs of a few epochs.
GREY = Recipe(hidden=32, head=128, pool=4, groups=8, lr=3e-3, start_every=5, start_lr=1.0)

# Those of CIFAR are those of the release of Ding et al. (2023).
RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "digits": GREY,
        "mnist": GREY,
        "fashion-mnist": GREY,
        "svhn": Recipe(pad=4),
        "cifar10": Recipe(flip=0.2, pad=4),
        "cifar100": Recipe(
            hidden=128, head=512, dropout=0.15, start_every=5, start_lr=0.01, flip=0.5, pad=4
        ),
    }
)
"""Recipes by the name of the data set; `Recipe()` suits any other."""
