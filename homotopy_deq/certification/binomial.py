"""Confidence bounds on the probability of a success, rounded towards the smaller claim."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import SupportsIndex

EPS = 2.0**-52
BELOW_ONE = 1 - EPS / 2  # the largest double below 1: no finite sample shows p = 1
SLACK = 1e-9  # relative; scipy's beta and hypergeometric tails err by less (see the tests)


def clopper_pearson(successes: SupportsIndex, trials: SupportsIndex, alpha: float) -> float:
    """Return the one-sided lower confidence bound on a probability.

    p = max{p : P(Bin(N, p) >= K) <= alpha}, so that P(p_lower > p) <= alpha for every p. It stays
    valid for votes of an S with S = A only where G = A, however S's samples depend on each other:
    it grows with K, and G's own count is at least K.

    Arguments:
        successes: K, votes for the class; a sample that is undecided counts as none.
        trials: N, samples drawn (a number fixed beforehand).
        alpha: the chance of a bound above p, in (0, 1).

    Raises:
        ValueError: unless 0 <= K <= N and 0 < alpha < 1.

    References:
        C. Clopper, E. Pearson (1934). J. Cohen, E. Rosenfeld, Z. Kolter (2019), Certified
        Adversarial Robustness via Randomized Smoothing.
    """
    k, n = counts(successes, trials)
    check_level(alpha)
    if k == 0:
        return 0.0
    from scipy.special import betaincinv

    return lowered(
        float(betaincinv(k, n - k + 1, alpha * (1 - SLACK))), lambda p: tail(k, n, p), alpha
    )


def binomial_band(
    successes: SupportsIndex, trials: SupportsIndex, level: float = 0.95
) -> tuple[float, float]:
    """Return Clopper and Pearson's two-sided interval for a probability.

    Arguments:
        successes: K of N.
        trials: N.
        level: of confidence, in (0, 1); half of the rest is spent on each side.

    Raises:
        ValueError: for impossible counts or level.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1); got {level}.")
    k, n = counts(successes, trials)
    tail = (1 - level) / 2
    return clopper_pearson(k, n, tail), min(1.0, 1 - clopper_pearson(n - k, n, tail) + EPS)


def counts(successes: SupportsIndex, trials: SupportsIndex) -> tuple[int, int]:
    """Return both as integers, or raise ValueError unless 0 <= K <= N."""
    try:
        k, n = operator.index(successes), operator.index(trials)
    except TypeError:
        raise ValueError(
            f"votes are whole numbers; got {successes!r} of {trials!r}: round down first."
        ) from None
    if not 0 <= k <= n:
        raise ValueError(f"votes must lie between 0 and the number of samples; got {k} of {n}.")
    return k, n


def check_level(alpha: float) -> None:
    """Raise ValueError unless alpha is in (0, 1)."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1); got {alpha}.")


def tail(k: int, n: int, p: float) -> float:
    """Return P(Bin(n, p) >= k)."""
    from scipy.special import betainc

    if k <= 0 or k > n:
        return float(k <= 0)
    return float(betainc(k, n - k + 1, p))


def lowered(p: float, tail: Callable[[float], float], alpha: float) -> float:
    """Lower p until its tail is below alpha by more than rounding can account for."""
    p = min(p, BELOW_ONE) if p > 0 else 0.0  # nan, where scipy fails, claims nothing
    step = EPS
    while p > 0 and not tail(p) <= alpha * (1 - SLACK / 2):
        p, step = p * (1 - step), 2 * step
    return p if math.isfinite(p) else 0.0
