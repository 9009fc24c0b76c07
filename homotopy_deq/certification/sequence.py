"""Ask "is p above a threshold?" after every vote: a confidence sequence from bets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from .statistics import EPS, check_level, counts

SLACK = 1e-8  # added to log(1/alpha): the rounding of log-gammas at some 1e6 votes


class Decision(IntEnum):
    """What the votes so far say of p > threshold."""

    UNDECIDED = 0
    CERTIFIED = 1
    FUTILE = 2


@dataclass(frozen=True)
class BettingSequence:
    """Test p > threshold after every vote, as often as one likes, at one level alpha.

    A gambler puts the share q = (H + 1/2) / (T + 1) of all he has on the next vote (H successes
    in T votes so far; Krichevsky & Trofimov), at the fair odds of p. What he has,

        Q / P(p),   Q = B(H + 1/2, T - H + 1/2) / B(1/2, 1/2),   P(p) = p^H (1 - p)^(T - H),

    is a martingale where p is true, so it ever exceeds 1/alpha with probability alpha at most.
    The p for which it never did are an interval around H / T. Once threshold lies below it, all
    p <= threshold are excluded: CERTIFIED, wrong with probability alpha at most. Once threshold
    lies above the interval at level `futility`, FUTILE: a mistake here loses a certificate and
    never issues a false one, so that its level may be generous and costs alpha nothing.

    Q depends on the votes through H and T alone, and the bound rises with H. Hence the votes may
    come in any chunks, and votes of an S that says A only where G does are as good as G's.

        sequence = BettingSequence(threshold=0.9, alpha=0.001)
        sequence = sequence.update(votes)  # a new one; the votes after a decision are not counted

    Arguments:
        threshold: in [0, 1]; `required_probability` turns a radius into it.
        alpha: the chance, over the whole sequence, to certify although p <= threshold.
        futility: the chance to give up although p > threshold.
        successes: H, to continue a stored sequence.
        trials: T, votes counted; where decided, the index of the deciding vote (from 1).
        decision: so far.

    Raises:
        ValueError: for a threshold, level or count out of range.

    References:
        V. Voracek (2024), Treatment of Statistical Estimation Problems in Randomized Smoothing
        for Adversarial Robustness. R. Krichevsky, V. Trofimov (1981), The Performance of
        Universal Encoding.
    """

    threshold: float
    alpha: float
    futility: float = 0.01
    successes: int = 0
    trials: int = 0
    decision: Decision = Decision.UNDECIDED

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1]; got {self.threshold}.")
        for name, level in (("alpha", self.alpha), ("futility", self.futility)):
            if not 0 < level < 1:
                raise ValueError(f"{name} must be in (0, 1); got {level}.")
        if not 0 <= self.successes <= self.trials:
            raise ValueError(
                f"successes must lie between 0 and trials; got {self.successes} of {self.trials}."
            )

    def update(self, votes: npt.ArrayLike) -> BettingSequence:
        """Count votes, (n,) of 0 and 1, up to the one that decides.

        Raises:
            ValueError: for votes of another shape, or other than 0 and 1.
        """
        drawn = np.asarray(votes)
        if drawn.ndim != 1 or not bool(np.all((drawn == 0) | (drawn == 1))):
            raise ValueError(
                f"votes must be 0 or 1, of shape (n,); got {drawn.dtype} of shape {drawn.shape}."
            )
        if self.decision or not drawn.size:
            return self
        heads = self.successes + np.cumsum(drawn, dtype=np.int64)
        count = self.trials + np.arange(1, drawn.size + 1)
        verdicts = self._judge(heads, count)
        decided = np.flatnonzero(verdicts)
        last = int(decided[0]) if decided.size else drawn.size - 1
        found = Decision(int(verdicts[last]))
        return replace(self, successes=int(heads[last]), trials=int(count[last]), decision=found)

    def at(self, successes: int, trials: int) -> BettingSequence:
        """Return the sequence after so many votes, none of which but the last decided.

        Raises:
            ValueError: unless 0 <= successes <= trials.
        """
        heads, count = counts(successes, trials)
        verdict = int(self._judge(np.array([heads]), np.array([count]))[0]) if count else 0
        return replace(self, successes=heads, trials=count, decision=Decision(verdict))

    def _judge(
        self, heads: npt.NDArray[np.int64], count: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.int64]:
        """Return the `Decision` that each of these counts gives by itself."""
        wealth = _log_wealth(heads, count, self.threshold)
        above = heads > count * self.threshold
        certified = above & (wealth > -math.log(self.alpha) + SLACK)
        futile = ~above & (wealth > -math.log(self.futility) + SLACK)
        verdict: npt.NDArray[np.int64] = np.where(
            certified, Decision.CERTIFIED, np.where(futile, Decision.FUTILE, Decision.UNDECIDED)
        )
        return verdict

    def lower(self) -> float:
        """Return the lower bound on p after the votes so far, rounded down.

        It is `betting_lower` of the votes counted, and at least threshold where CERTIFIED.
        """
        bound = betting_lower(self.successes, self.trials, self.alpha)
        return max(bound, self.threshold) if self.decision == Decision.CERTIFIED else bound


def betting_lower(successes: SupportsIndex, trials: SupportsIndex, alpha: float) -> float:
    """Return the lower end of the sequence's interval for p after T votes, H for the class.

    max{p < H / T : log Q - log P(p) > log(1/alpha)}, 0 if there is none. It may be looked at after
    every vote: P(it ever exceeds p) <= alpha. It grows with H and, for one look, claims less
    than `clopper_pearson`.

    Raises:
        ValueError: unless 0 <= H <= T and 0 < alpha < 1.
    """
    h, t = counts(successes, trials)
    check_level(alpha)
    if h == 0:
        return 0.0
    heads, count = np.array([h]), np.array([t])
    low, high = 0.0, h / t
    while high - low > EPS * high:  # low is excluded, or 0
        middle = (low + high) / 2
        if _log_wealth(heads, count, middle)[0] > -math.log(alpha) + SLACK:
            low = middle
        else:
            high = middle
    return low


def _log_wealth(
    heads: npt.NDArray[np.int64], count: npt.NDArray[np.int64], p: float
) -> npt.NDArray[np.float64]:
    """Return log Q - log P(p) after each vote."""
    from scipy.special import betaln, xlog1py, xlogy

    tails = count - heads
    log_q = betaln(heads + 0.5, tails + 0.5) - math.log(math.pi)  # B(1/2, 1/2) = pi
    wealth: npt.NDArray[np.float64] = log_q - xlogy(heads, p) - xlog1py(tails, -p)
    return wealth
