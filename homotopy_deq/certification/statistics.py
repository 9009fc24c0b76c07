"""Lower bounds on the probability of a class, and the radii that follow from them.

G is the base classifier that is certified, S what was computed in its place, N the number of noisy
samples. A bound may err downwards only: each result is rounded towards the smaller claim.

| rule | counts | asks for |
|---|---|---|
| `clopper_pearson` | votes of G, or of an S that says A only where G does | i.i.d. noise |
| `audited_lower` | votes of any S, k of those for A audited at random | i.i.d. noise |
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from decimal import ROUND_FLOOR, Decimal
from typing import SupportsIndex

EPS = 2.0**-52
BELOW_ONE = 1 - EPS / 2  # the largest double below 1: no finite sample shows p = 1
SLACK = 1e-9  # relative; scipy's beta and hypergeometric tails err by less (see the tests)
SPLIT = 0.7  # of alpha, to the audit: within 1% of the best radius for p .7-.999, k 200-4000
ROUNDING = 32 * EPS  # relative; scipy's quantile and distribution of N(0, 1) err by less


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


def hypergeometric_upper(
    population: SupportsIndex, audited: SupportsIndex, disagreements: SupportsIndex, alpha: float
) -> int:
    """Return an upper confidence bound on the wrong votes among M, of which k were looked at.

    D = max{D : P(Hypergeom(M, D, k) <= b) > alpha}. The k must be a uniform random subset: the
    first k miss what goes wrong later in a chain.

    Arguments:
        population: M, votes.
        audited: k, votes computed again.
        disagreements: b, of the k, those that turned out otherwise.
        alpha: the chance of a D below the truth, in (0, 1).

    Raises:
        ValueError: unless 0 <= b <= k <= M and 0 < alpha < 1.
    """
    b, k, m = _audit(disagreements, audited, population, "population")
    check_level(alpha)
    from scipy.stats import hypergeom

    low, high = b, m - k + b  # b were seen to be wrong, k - b to be right
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.cdf(b, m, middle, k) > alpha * (1 - SLACK):
            low = middle
        else:
            high = middle - 1
    return low


def audited_lower(
    votes: SupportsIndex,
    trials: SupportsIndex,
    audited: SupportsIndex,
    disagreements: SupportsIndex,
    alpha: float,
    split: float = SPLIT,
) -> tuple[float, int]:
    """Return a lower bound on P(G = A) from votes of any S, corrected by a random audit.

    D = `hypergeometric_upper`(M, k, b, alpha2) and p = `clopper_pearson`(M - D, N, alpha1): at
    least M - D of the M votes are G's as well. Valid under any dependence between the votes.

    Arguments:
        votes: M, samples on which S = A.
        trials: N, samples drawn.
        audited: k, of the M, chosen uniformly at random after the chain has ended.
        disagreements: b, of the k, those on which G is not A.
        alpha: the chance of a bound above P(G = A), alpha1 + alpha2.
        split: alpha2 / alpha, fixed before the data. The audit is the smaller sample, hence the
            larger share.

    Returns:
        p and D.

    Raises:
        ValueError: for impossible counts, alpha or split.
    """
    m, n = counts(votes, trials)
    b, k, _ = _audit(disagreements, audited, m, "votes")
    counted, checked = _divide(alpha, split)
    wrong = hypergeometric_upper(m, k, b, checked)
    return clopper_pearson(m - wrong, n, counted), wrong


def radius(p: float, sigma: float) -> float:
    """Return sigma Phi^-1(p), rounded down: the l2 radius around which the class is certified.

    Arguments:
        p: a lower bound on the probability of the class, in [0, 1). Up to 1/2 the radius is 0:
            abstain.
        sigma: the noise, in units of the input.

    Raises:
        ValueError: for a p outside [0, 1), nan included, or a sigma that is not positive.

    References:
        J. Cohen, E. Rosenfeld, Z. Kolter (2019), Theorem 1.
    """
    if not 0 <= p < 1:
        raise ValueError(f"p must be a lower bound in [0, 1), which no sample takes to 1; got {p}.")
    _check_sigma(sigma)
    if p <= 0.5:
        return 0.0
    from scipy.special import ndtri

    return sigma * float(ndtri(p)) * (1 - ROUNDING)


def required_probability(radius: float, sigma: float) -> float:
    """Return Phi(radius / sigma), rounded up: a bound above it certifies the radius.

    It is 1, which no bound exceeds, where doubles end (at 8.2 sigma).

    Raises:
        ValueError: for a radius below 0 or a sigma that is not positive.
    """
    if not radius >= 0:
        raise ValueError(f"radius must be 0 or more; got {radius}.")
    _check_sigma(sigma)
    from scipy.special import ndtr

    return min(1.0, float(ndtr(radius / sigma * (1 + EPS))) * (1 + 4 * EPS))


def floor_radius(radius: float, digits: int = 4) -> float:
    """Round a radius down to so many decimals, with which it is to be printed.

    The decimal is at most the radius, exactly; to nearest, it would claim more than was certified.

    Raises:
        ValueError: for a radius that is negative, infinite or nan, or digits outside 0-12.
    """
    if not 0 <= radius < float("inf"):
        raise ValueError(f"radius must be finite and 0 or more; got {radius}.")
    if not 0 <= digits <= 12:
        raise ValueError(f"digits must lie between 0 and 12; got {digits}.")
    if radius >= 2**52:  # it has no decimals, and more digits than Decimal computes with
        return float(radius)
    exact = Decimal(float(radius))
    return float(exact.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR))


def _audit(
    disagreements: SupportsIndex, audited: SupportsIndex, population: SupportsIndex, name: str
) -> tuple[int, int, int]:
    b, k = counts(disagreements, audited)
    _, m = counts(0, population)
    if k > m:
        raise ValueError(f"audited must be at most {name}, {m}; got {k}: audit fewer, or all.")
    return b, k, m


def _divide(alpha: float, split: float) -> tuple[float, float]:
    """Return alpha1 of the count and alpha2 of the audit."""
    check_level(alpha)
    if not 0 < split < 1:
        raise ValueError(f"split, the audit's share of alpha, must be in (0, 1); got {split}.")
    return alpha - alpha * split, alpha * split


def _check_sigma(sigma: float) -> None:
    if not 0 < sigma < float("inf"):
        raise ValueError(f"sigma must be positive and finite; got {sigma}.")
