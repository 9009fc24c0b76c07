"""What a certification says of one image."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .statistics import floor_radius

ABSTAIN = -1
DIGITS = 6
"""Decimals that a radius is printed with, rounded down."""


@dataclass(frozen=True)
class Certificate:
    """The smoothed classifier's class is `prediction` within `radius` of the image (l2).

    It holds with probability at least 1 - alpha over the noise that was drawn, for the base
    classifier that the run's policy names. `prediction` is -1 and `radius` 0 where it abstains.

    Arguments:
        index: of the image in the test set.
        label: its true class.
        prediction: the certified class, or -1.
        radius: in input units, rounded down.
        lower: lower bound on the probability of the class under noise.
        votes: noise samples counted for the class.
        undecided: noise samples that count for no class: not converged, or not proven.
        samples: noise samples drawn to estimate.
        evaluations: evaluations of the map for all of the image's samples, selection included.
        detail: what else the policy has to say: audited k, disagreements b, D, alphas.
        stop: why sampling ended.
    """

    index: int
    label: int
    prediction: int
    radius: float
    lower: float
    votes: int
    undecided: int
    samples: int
    evaluations: int
    detail: Mapping[str, Any] = field(default_factory=dict)
    stop: str = "all samples drawn"

    @property
    def correct(self) -> bool:
        """Whether the class is the true one."""
        return self.prediction == self.label

    def check(self) -> None:
        """Raise ValueError unless the numbers can go together, nan and infinity refused."""
        for name in ("radius", "lower"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(
                    f"image {self.index}: a {name} must be finite and 0 or more; got "
                    f"{getattr(self, name)}."
                )
        if (self.prediction == ABSTAIN) != (self.radius == 0):
            raise ValueError(
                f"image {self.index}: class {self.prediction} with radius {self.radius:g}; an "
                "abstention (-1) has radius 0, and nothing else has."
            )
        if not 0 <= self.votes <= self.samples - self.undecided:
            raise ValueError(
                f"image {self.index}: {self.votes} votes and {self.undecided} undecided of "
                f"{self.samples} samples are impossible."
            )

    def body(self) -> dict[str, Any]:
        """Return the certificate as JSON."""
        return asdict(self) | {"correct": self.correct}

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Certificate:
        """Read back what `body` returned."""
        return cls(**{name: value for name, value in body.items() if name != "correct"})

    def row(self) -> str:
        """Return the row of a table: idx, label, predict, radius, correct, evaluations."""
        radius = f"{floor_radius(self.radius, DIGITS):.{DIGITS}f}"
        cells = (self.index, self.label, self.prediction, radius, int(self.correct))
        return "\t".join(map(str, (*cells, self.evaluations)))


HEADER = "idx\tlabel\tpredict\tradius\tcorrect\tevals"
