"""Curves of certified accuracy against radius, with their sampling bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .binomial import binomial_band


class Curve(NamedTuple):
    """Certified accuracy at some radii: each an array of their length."""

    radius: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]
    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]


def certified_accuracy(
    radii: npt.ArrayLike,
    correct: npt.ArrayLike,
    at: Sequence[float] | npt.NDArray[np.float64],
    level: float = 0.95,
) -> Curve:
    """Return the share of images certified correctly at each radius, with a sampling band.

    The band is pointwise: it covers each radius with the given confidence, as a sample of the
    images' distribution. It says nothing of alpha, the chance that one certificate is false.

    Arguments:
        radii: certified radius of each image, 0 where abstained, (B,).
        correct: whether its class is the label, (B,); an abstention is not correct.
        at: radii to evaluate, (R,).
        level: of confidence.

    Raises:
        ValueError: for no images, shapes that differ, or a radius that is negative or not finite.
    """
    found, right = np.asarray(radii, dtype=np.float64), np.asarray(correct, dtype=bool)
    if found.ndim != 1 or found.shape != right.shape or not found.size:
        raise ValueError(
            f"radii and correct must be of one shape (B,), B > 0; got {found.shape}, {right.shape}."
        )
    if not bool(np.all(np.isfinite(found) & (found >= 0))):
        raise ValueError("radii must be finite and 0 or more; an abstention's is 0.")
    where = np.asarray(at, dtype=np.float64)
    counts = [int(np.sum(right & (found >= r))) for r in where]
    bands = [binomial_band(count, found.size, level) for count in counts]
    low, high = (np.array([band[side] for band in bands]) for side in (0, 1))
    return Curve(where, np.array(counts) / found.size, low, high)
