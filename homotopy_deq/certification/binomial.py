"""Confidence bounds on the probability of a success, rounded towards the smaller claim."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, SupportsIndex

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

    return _lowered(
        float(betaincinv(k, n - k + 1, alpha * (1 - SLACK))), lambda p: _tail(k, n, p), alpha
    )


def randomized_clopper_pearson(
    successes: SupportsIndex, trials: SupportsIndex, alpha: float, u: float
) -> float:
    """Return the randomised lower bound, whose error is alpha exactly.

    p solves u P(X > K) + (1 - u) P(X >= K) = alpha, X ~ Bin(N, p): at u = 0 it is Clopper and
    Pearson's bound, which it is never below. With probability alpha at K = N there is no p < 1
    to solve it, and the largest double below 1 is returned.

    Arguments:
        successes: K, as in `clopper_pearson`, and valid for the same votes.
        trials: N.
        alpha: the chance of a bound above p.
        u: uniform in [0, 1), independent of the votes, drawn once: choosing it, or drawing
            again after a look at the bound, voids the coverage.

    Raises:
        ValueError: for impossible counts, alpha or u.

    References:
        W. Stevens (1950), Fiducial Limits of the Parameter of a Discontinuous Distribution.
    """
    k, n = counts(successes, trials)
    check_level(alpha)
    if not 0 <= u < 1:
        raise ValueError(f"u must be uniform in [0, 1); got {u}.")
    plain = clopper_pearson(k, n, alpha)
    from scipy.optimize import brentq
    from scipy.special import betaincinv

    def tail(p: float) -> float:
        return u * _tail(k + 1, n, p) + (1 - u) * _tail(k, n, p)

    def excess(p: float) -> float:
        return tail(p) - alpha * (1 - SLACK)

    above = float(betaincinv(k + 1, n - k, alpha)) if k < n else 1.0
    if excess(plain) >= 0:
        return plain
    root: Any = above
    if excess(above) > 0:
        root = brentq(excess, plain, above, xtol=1e-16)
    return max(plain, _lowered(float(root), tail, alpha))


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


def _tail(k: int, n: int, p: float) -> float:
    """Return P(Bin(n, p) >= k)."""
    from scipy.special import betainc

    if k <= 0 or k > n:
        return float(k <= 0)
    return float(betainc(k, n - k + 1, p))


def _lowered(p: float, tail: Callable[[float], float], alpha: float) -> float:
    """Lower p until its tail is below alpha by more than rounding can account for."""
    p = min(p, BELOW_ONE) if p > 0 else 0.0  # nan, where scipy fails, claims nothing
    step = EPS
    while p > 0 and not tail(p) <= alpha * (1 - SLACK / 2):
        p, step = p * (1 - step), 2 * step
    return p if math.isfinite(p) else 0.0
