"""The images of a run, in the batches that a process takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from ..data import Augmentation, ImageData, loader, split_validation
from ..settings import TrainConfig
from .smoothing import TEST, VALIDATION, held_noise


@dataclass(frozen=True)
class Sets:
    """Train, validation and test images; under the run's noise where it is judged by that.

    Arguments:
        train: a loader of batches, shuffled and augmented, prepared by the accelerator.
        validation: likewise, as they are.
        test: likewise.
        noisy: the test images under noise, where that is trained for.
        first: a batch of validation images, to judge starts by.
    """

    train: Any
    validation: Any
    test: Any
    noisy: Any
    first: Tensor

    @classmethod
    def of(
        cls, data: ImageData, config: TrainConfig, accelerator: Accelerator, *, full: bool
    ) -> Sets:
        """Split off the validation images, and put all in batches.

        Arguments:
            data: train and test images.
            config: says how.
            accelerator: deals the batches to the processes in turn.
            full: leave out a last train batch that is not full, see `seek`.
        """
        kept, held = split_validation(data, config.validation, config.seed)
        augment = Augmentation(config.flip, config.pad) if config.flip or config.pad else None

        def prepared(images: Tensor, labels: Tensor, train: bool = False) -> Any:
            raw = loader(
                images,
                labels,
                config.batch,
                shuffle=train,
                augment=augment if train else None,
                seed=config.seed,
                drop_last=train and full,
            )
            return accelerator.prepare(raw)

        images, labels = data.train_images, data.train_labels
        judged, tested, noisy = images[held], data.test_images, None
        if (smoothing := config.smoothing) is not None:
            judged = held_noise(judged, smoothing.noise, config.seed, VALIDATION)
            under = held_noise(tested, smoothing.noise, config.seed, TEST)
            noisy = prepared(under, data.test_labels)
        few = judged[: config.batch], labels[held][: config.batch]
        first = next(iter(loader(*few, config.batch, shuffle=False)))[0]
        return cls(
            prepared(images[kept], labels[kept], True),
            prepared(judged, labels[held]),
            prepared(tested, data.test_labels),
            noisy,
            first.to(accelerator.device),
        )
