"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .smoothing import SmoothTraining

Precision = Literal["no", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """Say how to train; what is trained, and on which data, is said elsewhere.

    The defaults are those of HomoODE's release for CIFAR-10, except for the number of epochs,
    the validation split that it lacks, and the start's learning rate, which there hardly decays.

    Arguments:
        epochs: passes over the train images; 300 in the release.
        batch: images a step (and a process, where there are several).
        lr: Adam's learning rate in the first step.
        final_lr: Adam's learning rate in the last step; a cosine leads from `lr` to it.
        start_lr: the learning rate of SGD on the shared initial point, along the same cosine to 0.
        start_every: steps between two steps of the initial point.
        validation: the part of the train images held out, in (0, 1), that chooses the best epoch.
        residual_penalty: weight of the residual penalty, 0 for none.
        jacobian_penalty: weight of the Jacobian penalty, 0 for none.
        flip: probability of mirroring a train image, in [0, 1].
        pad: pixels of black around a train image before it is cropped at random.
        precision: "bf16" computes in bfloat16 under autocast; "no" in float32.
        seed: of the split, the order, the augmentation and the dropout; 0 or more.
        smoothing: noise, adversary and consistency of training for certification; None for none.
            Validation then measures under noise, so the best epoch is that of what is certified.
        save_every: seconds between two checkpoints within an epoch; 0 saves after each batch.

    References:
        S. Ding, T. Cui, J. Wang, Y. Shi (2023), Two sides of the same coin: bridging deep
        equilibrium models and neural ODEs via homotopy continuation.
    """

    epochs: int = 10
    batch: int = 64
    lr: float = 1e-3
    final_lr: float = 1e-6
    start_lr: float = 0.02
    start_every: int = 20
    validation: float = 0.1
    residual_penalty: float = 0.0
    jacobian_penalty: float = 0.0
    flip: float = 0.0
    pad: int = 0
    precision: Precision = "no"
    seed: int = 0
    smoothing: SmoothTraining | None = None
    save_every: float = 30.0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "start_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        nonnegative = (
            "lr", "final_lr", "start_lr", "residual_penalty", "jacobian_penalty", "seed",
            "save_every",
        )  # fmt: skip
        for name in nonnegative:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more; got {getattr(self, name)}.")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must be in (0, 1); got {self.validation}.")
        if self.precision not in ("no", "bf16"):
            raise ValueError(f"precision must be 'no' or 'bf16'; got {self.precision!r}.")
