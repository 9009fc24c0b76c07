"""What the certificates of many images say together, and beside those of another run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .certificate import ABSTAIN, SURELY, Certificate, Norm
from .statistics import binomial_band

STEP, FIRST, COLUMNS = 0.25, 1.0, 9
USUAL: Mapping[Norm, Sequence[int]] = {"l2": (0, 36, 72, 108, 255), "linf": (0, 1, 2, 4, 8)}
"""Radii that papers on deterministic certificates give, times 255."""
Array = npt.NDArray[np.float64]


class Curve(NamedTuple):
    """Certified accuracy at some radii: each an array of their length."""

    radius: Array
    accuracy: Array
    low: Array
    high: Array


@dataclass(frozen=True)
class Summary:
    """The certificates of a run in figures.

    Arguments:
        index: of the images, ascending, (B,).
        radius: certified, 0 where abstained, (B,).
        correct: whether the certified class is the label, (B,).
        abstained: share of images without a certificate.
        undecided: share of the samples that counted for no class.
        samples: an image, to estimate; the mean.
        evaluations: of the map a sample, those that select the class included.
        per_image: evaluations an image.
        seconds: an image; nan where they are not known.
        holds: in which sense its claims hold.
        norm: that radii are in.
    """

    index: npt.NDArray[np.int64]
    radius: npt.NDArray[np.float64]
    correct: npt.NDArray[np.bool_]
    abstained: float
    undecided: float
    samples: float
    evaluations: float
    per_image: float
    seconds: float
    holds: str
    norm: Norm = "l2"

    @classmethod
    def of(
        cls,
        certificates: Sequence[Certificate],
        seconds: Mapping[int, float] | None = None,
        *,
        n0: int = 0,
    ) -> Summary:
        """Sum certificates up.

        Arguments:
            certificates: one an image, at least one.
            seconds: that each image took, by its index.
            n0: samples that selected the class, an image.

        Raises:
            ValueError: for no certificates, two of one image, or claims of several kinds.
        """
        if not certificates:
            raise ValueError("there are no certificates to sum up.")
        ordered = sorted(certificates, key=lambda c: c.index)
        for before, after in zip(ordered, ordered[1:], strict=False):
            if before.index == after.index:
                raise ValueError(f"image {before.index} has two certificates; one is wanted.")
        kinds = sorted({(each.claim.holds, each.claim.norm) for each in ordered})
        if len(kinds) > 1:
            named = " and ".join(f"{holds} in {norm}" for holds, norm in kinds)
            raise ValueError(f"claims of several kinds make no curve: {named}.")
        drawn = sum(c.evidence.samples for c in ordered)
        spent = sum(c.evaluations for c in ordered)
        times = [math.nan if seconds is None else seconds.get(c.index, math.nan) for c in ordered]
        count = len(ordered)
        return cls(
            index=np.array([c.index for c in ordered], dtype=np.int64),
            radius=np.array([c.radius for c in ordered], dtype=np.float64),
            correct=np.array([c.correct for c in ordered], dtype=np.bool_),
            abstained=sum(c.prediction == ABSTAIN for c in ordered) / count,
            undecided=sum(c.evidence.undecided for c in ordered) / max(drawn, 1),
            samples=drawn / count,
            evaluations=spent / max(drawn + n0 * count, 1),
            per_image=spent / count,
            seconds=float(np.mean(times)),
            holds=kinds[0][0],
            norm=ordered[0].claim.norm,
        )

    @property
    def images(self) -> int:
        """How many there are."""
        return len(self.index)

    @property
    def acr(self) -> float:
        """The average certified radius: a wrong class and an abstention count 0.

        It is the area under the curve of certified accuracy, and easy images dominate it.

        References:
            R. Zhai, C. Dan, D. He, H. Zhang, B. Gong, P. Ravikumar, C.-J. Hsieh, L. Wang (2020),
            MACER: Attack-free and scalable robust training via maximizing certified radius.
        """
        return float(np.mean(self.radius * self.correct))

    @property
    def reach(self) -> float:
        """The largest radius that is certified for a true class."""
        return float(np.max(self.radius * self.correct))

    def accuracy(self, at: Sequence[float] | Array, level: float = 0.95) -> Curve:
        """Return the share of images certified correctly at each radius, with a sampling band.

        The band is pointwise: it covers each radius with the given confidence, as a sample of the
        images' distribution. It says nothing of alpha, the chance that one certificate is false.

        Arguments:
            at: radii to evaluate, (R,).
            level: of confidence.
        """
        where = np.asarray(at, dtype=np.float64)
        counts = [int(np.sum(self.correct & (self.radius >= r))) for r in where]
        bands = [binomial_band(count, self.images, level) for count in counts]
        low, high = (np.array([band[side] for band in bands]) for side in (0, 1))
        return Curve(where, np.array(counts) / self.images, low, high)


@dataclass(frozen=True)
class Comparison:
    """One run beside another of the same images.

    Arguments:
        time: seconds of the other over those of this one.
        evaluations: of the map, likewise.
        difference: of certified accuracy, this less the other, where it is largest.
        at: the radius there.
    """

    time: float
    evaluations: float
    difference: float
    at: float


def compare(summary: Summary, cold: Summary) -> Comparison:
    """Return the speed-up over another run, and where certified accuracy differs most.

    Certified accuracy changes only at certified radii, so all of these are all that is looked at.

    Raises:
        ValueError: the two are not of the same images, or their radii not in one norm.
    """
    if summary.norm != cold.norm:
        raise ValueError(
            f"radii in {summary.norm} and in {cold.norm} cannot be compared: give runs of one norm."
        )
    if not np.array_equal(summary.index, cold.index):
        raise ValueError(
            f"only runs of the same images can be compared; these have {summary.images} and "
            f"{cold.images} images, {len(np.intersect1d(summary.index, cold.index))} in common."
        )
    where = np.unique(np.concatenate([[0.0], summary.radius, cold.radius]))
    differences = _share(summary, where) - _share(cold, where)
    worst = int(np.argmax(np.abs(differences)))
    return Comparison(
        time=cold.seconds / summary.seconds if summary.seconds else math.nan,
        evaluations=cold.per_image / summary.per_image if summary.per_image else math.nan,
        difference=float(differences[worst]),
        at=float(where[worst]),
    )


def radii(runs: Sequence[Summary]) -> list[tuple[float, str]]:
    """Return radii for a table of runs, and how they are written.

    Those of proofs are the usual ones in steps of 8-bit images; others 0, .25, ... to at least 1
    and as far as anything is certified.
    """
    norm = runs[0].norm
    if all(run.holds == SURELY and run.norm == norm for run in runs):
        return [(k / 255, f"{k}/255" if k else "0") for k in USUAL[norm]]
    return [(r, f"{r:g}") for r in grid(max(run.reach for run in runs))]


def grid(reach: float) -> list[float]:
    """Return 0, .25, ... to at least 1 and as far as a radius reaches."""
    step = STEP
    while max(reach, FIRST) / step > COLUMNS - 1:
        step *= 2
    return [step * k for k in range(int(max(reach, FIRST) / step) + 1)]


def _share(summary: Summary, where: Array) -> Array:
    certified = np.sort(summary.radius[summary.correct])
    below = np.searchsorted(certified, where, side="left")  # radii smaller than asked
    share: Array = (len(certified) - below) / summary.images
    return share
