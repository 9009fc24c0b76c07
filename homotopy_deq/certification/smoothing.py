"""The smoothed classifier, and what its samples can prove."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..settings.certification import SELECTING, NoiseSettings
from .noise import BLOCK, Noise
from .requirements import check_count
from .sequence import BettingSequence, Decision, betting_lower
from .statistics import floor_radius, required_probability
from .statistics import radius as radius_of

FIRST = 64
"""Samples of the first batch when sampling may stop at any time; each batch doubles it."""

TOGETHER = 64
"""Images that are decided side by side, at most: more would not make their batches larger."""


@dataclass(frozen=True)
class Smoothing:
    """The smoothed classifier: the class that is most probable under N(0, sigma^2 I) noise.

    Noise is in input units and is not clipped.

    Arguments:
        sigma: standard deviation of the noise.
        n0: samples that select the class.
        n: samples that estimate its probability.
        alpha: probability of a wrong certificate, at most.
        seed: of the noise.
        batch: samples solved for at a time.
        deterministic: solve in blocks of 64 whatever the batch, so that rounding, too, is the same
            for every batch size.
        discrete: round images and noise to the grid of 8-bit images, see `Noise`.

    References:
        J. Cohen, E. Rosenfeld, J. Z. Kolter (2019), Certified adversarial robustness via
        randomized smoothing.
    """

    sigma: float
    n0: int = SELECTING
    n: int = NoiseSettings.n
    alpha: float = NoiseSettings.alpha
    seed: int = NoiseSettings.seed
    batch: int = 500
    deterministic: bool = False
    discrete: bool = NoiseSettings.discrete

    def __post_init__(self) -> None:
        Noise(self.sigma, self.seed, self.discrete)  # checks these
        for name in ("n0", "n", "batch"):
            check_count(name, getattr(self, name))
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha must be in (0, 1); got {self.alpha}.")

    @property
    def noise(self) -> Noise:
        """The noise that is drawn."""
        return Noise(self.sigma, self.seed, self.discrete)

    @property
    def together(self) -> int:
        """How many images are decided side by side: as many as fill a batch at first."""
        return 1 if self.deterministic else min(TOGETHER, max(1, self.batch // FIRST))

    def check_radius(self, radius: float) -> None:
        """Raise ValueError unless samples that all agree certify the radius, which is above 0."""
        if not radius > 0:
            raise ValueError(f"radius must be above 0, where a claim begins; got {radius:g}.")
        n, deviation = self.n, self.noise.deviation
        bets = BettingSequence(required_probability(radius, deviation), self.alpha)
        if bets.at(n, n).decision != Decision.CERTIFIED:
            best = floor_radius(radius_of(betting_lower(n, n, self.alpha), deviation))
            raise ValueError(
                f"{n} samples that all agree prove a radius of {best:g} at sigma {deviation:g} and "
                f"alpha {self.alpha:g}: radius {radius:g} would be certified for no image. Ask for "
                "less, or give more noise or a larger n=."
            )

    def check_majority(self) -> None:
        """Raise ValueError unless samples that all agree tell the first class from the second."""
        if 2 * 0.5**self.n > self.alpha:
            enough = next(k for k in range(self.n + 1, self.n + 2000) if 2 * 0.5**k <= self.alpha)
            raise ValueError(
                f"{self.n} samples that all agree do not tell two classes apart at alpha "
                f"{self.alpha:g}: every image would abstain. Give n={enough} or more."
            )

    def chunks(self, samples: int, first: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the ranges of samples that are solved together."""
        size = BLOCK if self.deterministic else first or self.batch
        start = 0
        while start < samples:
            stop = min(start + size, samples)
            yield start, stop
            start = stop
            size = BLOCK if self.deterministic else min(2 * size, self.batch)
