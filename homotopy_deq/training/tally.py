"""Sums over samples, from which the figures of an epoch are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .objective import BatchResult


@dataclass(frozen=True)
class Tally:
    """Sums over the samples seen so far in an epoch; exact when written to JSON and read back."""

    samples: float = 0.0
    cross_entropy: float = 0.0
    correct: float = 0.0
    evals: float = 0.0
    converged: float = 0.0

    @staticmethod
    def sums(result: BatchResult, labels: Tensor) -> Tensor:
        """Return what a batch adds to each field, as one vector in double precision."""
        correct = result.logits.argmax(1) == labels
        rows = (labels >= 0, result.cross_entropy, correct, result.evals, result.converged)
        return torch.stack([row.detach().double().sum() for row in rows])

    def plus(self, sums: Tensor) -> Tally:
        """Add the sums of a batch."""
        return Tally(*(a + b for a, b in zip(asdict(self).values(), sums.tolist(), strict=True)))

    def means(self) -> dict[str, float]:
        """Return the mean loss, accuracy, evaluations and share that converged."""
        n = max(self.samples, 1.0)
        return {
            "loss": self.cross_entropy / n,
            "accuracy": self.correct / n,
            "nfe": self.evals / n,
            "converged": self.converged / n,
        }


def better(new: Mapping[str, float], old: Mapping[str, float] | None) -> bool:
    """Say whether validation figures beat the best: by accuracy, and by loss at a tie."""
    if old is None:
        return True
    return (new["accuracy"], -new["loss"]) > (old["accuracy"], -old["loss"])
