"""What can be measured of a model after each epoch, beside loss and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models import ImageModel, readout
from ..theory import collapse_of

Measure = Callable[[], Mapping[str, float | None]]
"""Figures by name, of a model as it is when called; leaves it as it was."""


@dataclass(frozen=True, eq=False)
class NeuralCollapse:
    """Measure NC1 to NC4 and their variants of the features that a model's classifier reads.

    The features of all images are held in memory meanwhile, as NC4 looks at them twice.

    Arguments:
        model: whose head ends with an affine map; see `models.readout`.
        images: uint8, (N, C, H, W): those that the model is trained on.
        labels: int64, (N,).
        batch: images solved for at a time.

    Raises:
        ValueError: the head is none that is known to end so.
    """

    model: ImageModel
    images: Tensor
    labels: Tensor
    batch: int = 256

    def __post_init__(self) -> None:
        readout(self.model.head)

    @torch.no_grad()
    def __call__(self) -> dict[str, float | None]:
        model, training = self.model, self.model.training
        model.eval()
        features, classifier = readout(model.head)
        where = classifier.weight.device
        parts = []
        for first in range(0, len(self.labels), self.batch):
            at = slice(first, first + self.batch)
            h = features(model.solve(self.images[at].to(where).float() / 255).solution.value)
            parts.append((h.cpu(), self.labels[at], classifier(h).cpu()))
        model.train(training)
        return collapse_of(lambda: parts, classifier.weight).figures()
