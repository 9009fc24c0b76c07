"""Say which of two is better from paired differences, with a band."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def paired(differences: Sequence[float], level: float = 0.95) -> dict[str, Any]:
    """Return the mean of differences first - second, Student's band of it, and what it says.

    The verdict is "better" or "worse" of the first where the band does not hold 0, and
    "undecided" where it does, or where there are fewer than two differences.

    Arguments:
        differences: one a pair, the pairs drawn independently.
        level: of the band.
    """
    from scipy.stats import t

    n = len(differences)
    mean = statistics.fmean(differences) if n else math.nan
    if n < 2:
        return {"pairs": n, "mean": mean if n else None, "band": None, "verdict": "undecided"}
    half = float(t.ppf((1 + level) / 2, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    low, high = mean - half, mean + half
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return {"pairs": n, "mean": mean, "band": [low, high], "verdict": verdict}
