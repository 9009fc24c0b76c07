"""Rules that serve comparison only: bounds that nothing is certified by, sound and unsound ones.

The rules that certificates follow from are in `homotopy_deq.certification`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from homotopy_deq.certification import Audited, Tally
from homotopy_deq.certification.policies import Redo
from homotopy_deq.certification.statistics import EPS, SLACK, SPLIT, clopper_pearson, lowered, tail
from homotopy_deq.certification.votes import UNDECIDED


def randomized_clopper_pearson(successes: int, trials: int, alpha: float, u: float) -> float:
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

    References:
        W. Stevens (1950), Fiducial Limits of the Parameter of a Discontinuous Distribution.
    """
    k, n = int(successes), int(trials)
    plain = clopper_pearson(k, n, alpha)
    from scipy.optimize import brentq
    from scipy.special import betaincinv

    def above(p: float) -> float:
        return u * tail(k + 1, n, p) + (1 - u) * tail(k, n, p)

    def excess(p: float) -> float:
        return above(p) - alpha * (1 - SLACK)

    end = float(betaincinv(k + 1, n - k, alpha)) if k < n else 1.0
    if excess(plain) >= 0:
        return plain
    root: Any = brentq(excess, plain, end, xtol=1e-16) if excess(end) > 0 else end
    return max(plain, lowered(float(root), above, alpha))


def product_lower(
    votes: int, trials: int, audited: int, disagreements: int, alpha: float, split: float = SPLIT
) -> float:
    """Return P(S = A) P(G = A | S = A), each factor bounded below, for samples that are i.i.d.

    P(G = A) >= LCB(N_A, N, alpha1) LCB(k - b, k, alpha2). For an S that starts each solve from
    one frozen state; along a chain, where S depends on earlier samples, use `audited_lower`.

    Arguments: are those of `audited_lower`.
    """
    right = clopper_pearson(audited - disagreements, audited, alpha * split)
    return clopper_pearson(votes, trials, alpha - alpha * split) * right * (1 - EPS)


def srs_paper_lower(
    votes: int, trials: int, audited: int, disagreements: int, alpha: float
) -> float:
    """Return what the released SRS code computes. UNSOUND.

    LCB(c N_A, c N, alpha / 2), c = LCB(k - b, k, alpha / 2) the share of right votes. Scaling N
    by c as well leaves the share N_A / N, and with it S's bias, as it was.

    Arguments: as in `audited_lower`.

    References:
        W. Gao, Z. Hou, H. Xu, X. Liu (2024), Certified Robustness for Deep Equilibrium Models via
        Serialized Random Smoothing.
    """
    right = clopper_pearson(audited - disagreements, audited, alpha / 2)
    return clopper_pearson(int(right * votes), int(right * trials), alpha / 2)


def srs_theorem_lower(
    votes: int, trials: int, audited: int, disagreements: int, alpha: float
) -> float:
    """Return what the theorem of SRS says: LCB(N_A - p_m N_A, N, alpha / 2).

    p_m = 1 - LCB(k - b, k, alpha / 2) bounds the share of wrong votes as if the audit were drawn
    with replacement. `audited_lower` needs no such step and claims more.

    Arguments: as in `audited_lower`; the k must be random here too.

    References:
        W. Gao, Z. Hou, H. Xu, X. Liu (2024), as above.
    """
    right = clopper_pearson(audited - disagreements, audited, alpha / 2)
    return clopper_pearson(int(right * votes), trials, alpha / 2)


@dataclass(frozen=True)
class PaperTally(Tally):
    """The votes as the released code counts them, the number of samples audited included.

    No `Journal` takes it for evidence.
    """

    def lower(self, alpha: float) -> float:
        if not self.audited:
            return 0.0
        counts = self.votes, self.samples, self.audited, self.disagreements or 0
        return srs_paper_lower(*counts, alpha)


@dataclass(frozen=True)
class SrsPaper(Audited):
    """Count as the released code of serialized randomized smoothing does: NOT SOUND.

    References:
        W. Gao, Z. Hou, H. Xu, X. Liu (2024), as above.
    """

    audit: int = 400

    @property
    def certifies(self) -> str:
        return "nothing: its bound leaves the bias of the short solves in"

    def tally(
        self, labels: np.ndarray, target: int, draw: np.random.Generator, redo: Redo
    ) -> Tally:
        chosen = np.arange(min(self.audit, len(labels)))  # the first, as released
        again = redo(chosen)
        counted = labels[chosen] == target
        votes, undecided = (int((labels == label).sum()) for label in (target, UNDECIDED))
        wrong = int((counted & (again != target)).sum())
        audit = int(counted.sum()), wrong
        return PaperTally(target, votes, undecided, len(labels), *audit)
