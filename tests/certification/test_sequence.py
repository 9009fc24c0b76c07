"""The sequence decides in the same place however it is fed, and errs no more often than it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaln, xlog1py, xlogy

from homotopy_deq.certification.sequence import BettingSequence, Decision, betting_lower
from homotopy_deq.certification.statistics import clopper_pearson, required_probability


def exact(
    p: float, threshold: float, alpha: float, futility: float, horizon: int
) -> tuple[float, float, float]:
    """P(certified), P(futile) and the mean number of votes up to the horizon, summed over H.

    Whether a path has been decided depends on the pairs (H, T) that it met, so the distribution
    of H among the undecided, carried from T to T + 1, is enough.
    """
    alive = np.array([1.0])  # over H = 0 ... T
    certified = futile = mean = 0.0
    for count in range(1, horizon + 1):
        mean += float(alive.sum())
        alive = np.append(alive * (1 - p), 0) + np.append(0, alive * p)
        heads = np.arange(count + 1)
        wealth = betaln(heads + 0.5, count - heads + 0.5) - math.log(math.pi)
        wealth -= xlogy(heads, threshold) + xlog1py(count - heads, -threshold)
        up = heads > count * threshold
        yes, no = up & (wealth > -math.log(alpha)), ~up & (wealth > -math.log(futility))
        certified += float(alive[yes].sum())
        futile += float(alive[no].sum())
        alive[yes | no] = 0
    return certified, futile, mean


def run(sequence: BettingSequence, p: float, horizon: int, seed: int) -> BettingSequence:
    return sequence.update(np.random.default_rng(seed).random(horizon) < p)


@given(
    st.lists(st.booleans(), max_size=300),
    st.lists(st.integers(0, 300), max_size=6),
    st.floats(0.05, 0.95),
)
@settings(deadline=None)
def test_answer_does_not_depend_on_how_votes_are_chunked(
    votes: list[bool], cuts: list[int], threshold: float
) -> None:
    whole = BettingSequence(threshold, 0.05).update(np.array(votes, dtype=bool))
    parts = BettingSequence(threshold, 0.05)
    for chunk in np.split(np.array(votes, dtype=bool), sorted(cuts)):
        parts = parts.update(chunk)
    single = BettingSequence(threshold, 0.05)
    for vote in votes:
        single = single.update([vote])
    assert whole == parts == single
    assert whole.lower() == parts.lower()


@given(st.lists(st.booleans(), min_size=1, max_size=200), st.floats(0.05, 0.95))
@settings(deadline=None)
def test_wealth_is_that_of_a_gambler_who_bets_vote_by_vote(
    votes: list[bool], threshold: float
) -> None:
    heads, wealth, decided = 0, 0.0, None
    for count, vote in enumerate(votes):
        bet = (heads + 0.5) / (count + 1)
        wealth += math.log(bet / threshold if vote else (1 - bet) / (1 - threshold))
        heads += vote
        level = 0.05 if heads > (count + 1) * threshold else 0.01
        # Within rounding of the boundary, either answer is right.
        if abs(wealth + math.log(level)) < 1e-7:
            return
        if wealth > -math.log(level):
            decided = count + 1
            break
    found = BettingSequence(threshold, 0.05).update(votes)
    assert (found.trials if found.decision else None) == decided


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_false_certificates_ever_are_rarer_than_alpha(threshold: float, alpha: float) -> None:
    # At p = threshold, the worst of p <= threshold, and with all but no stop for futility.
    certified, futile, _ = exact(threshold, threshold, alpha, 1e-12, 2000)
    assert certified + futile <= alpha
    certified, futile, _ = exact(threshold, threshold, alpha, 0.01, 2000)
    assert certified <= alpha
    assert futile <= 0.01


def test_simulated_decisions_have_the_probabilities_that_were_summed() -> None:
    p, threshold, runs, horizon = 0.8, 0.75, 600, 1500
    start = BettingSequence(threshold, alpha=0.05, futility=0.2)
    ends = [run(start, p, horizon, seed) for seed in range(runs)]
    certified, _, mean = exact(p, threshold, 0.05, 0.2, horizon)
    found = sum(end.decision == Decision.CERTIFIED for end in ends)
    # Four standard deviations of the binomial; of the mean, as of the runs.
    assert found == pytest.approx(runs * certified, abs=4 * math.sqrt(runs * certified * 0.25))
    counts = np.array([end.trials for end in ends])
    assert counts.mean() == pytest.approx(mean, abs=4 * counts.std() / math.sqrt(runs))


def test_running_bound_covers_at_all_times_at_once() -> None:
    p, alpha, runs = 0.9, 0.5, 200
    missed = 0
    for seed in range(runs):
        heads = np.cumsum(np.random.default_rng(seed).random(600) < p)
        missed += any(betting_lower(heads[t - 1], t, alpha) > p for t in range(1, 601, 20))
    assert missed <= alpha * runs


@pytest.mark.parametrize("p, r", [(0.99, 1.0), (0.9, 0.5), (0.999, 2.0)])
def test_deciding_takes_little_more_than_the_fewest_votes_possible(p: float, r: float) -> None:
    alpha, threshold = 0.001, required_probability(r, 1.0)
    divergence = p * math.log(p / threshold) + (1 - p) * math.log((1 - p) / (1 - threshold))
    certified, _, mean = exact(p, threshold, alpha, 0.01, 3000)
    assert certified > 0.98  # futility loses 1% at most
    # Wald (1945): no sequential test of level alpha and this power needs fewer on average.
    wald = (certified * math.log(certified / alpha) + futile_part(certified, alpha)) / divergence
    assert wald <= mean
    # Krichevsky & Trofimov: not knowing p costs log(T) / 2 + log(pi) / 2 at most, here and in the
    # overshoot of the last bet log(1 / threshold).
    bets = 0.5 * math.log(mean) + 0.5 * math.log(math.pi) - math.log(threshold)
    assert mean <= 1.05 * (math.log(1 / alpha) + bets) / divergence


def futile_part(certified: float, alpha: float) -> float:
    return (1 - certified) * math.log((1 - certified) / (1 - alpha)) if certified < 1 else 0.0


def test_far_thresholds_are_decided_in_fewer_votes_than_a_fixed_sample_takes() -> None:
    threshold = required_probability(0.5, 0.5)  # .841
    end = run(BettingSequence(threshold, 0.001), 0.99, 10000, seed=0)
    assert end.decision == Decision.CERTIFIED and end.trials < 200
    end = run(BettingSequence(threshold, 0.001), 0.6, 10000, seed=0)
    assert end.decision == Decision.FUTILE and end.trials < 100


@given(st.integers(1, 5000), st.data())
@settings(deadline=None)
def test_bound_grows_with_votes_and_stays_below_that_of_one_fixed_look(
    trials: int, data: st.DataObject
) -> None:
    heads = data.draw(st.integers(0, trials))
    bound = betting_lower(heads, trials, 0.01)
    assert 0 <= bound <= heads / trials
    # Validity under domination rests on this.
    if heads < trials:
        assert bound <= betting_lower(heads + 1, trials, 0.01)
    # All looks cost more than one; both bounds are exact to 1e-8 of alpha.
    assert bound <= clopper_pearson(heads, trials, 0.01) + 1e-9


def test_certificate_stands_and_bound_is_above_threshold() -> None:
    end = BettingSequence(0.8, 0.001).update(np.ones(500))
    assert end.decision == Decision.CERTIFIED
    assert end.lower() >= 0.8
    assert end.update(np.zeros(1000)) == end
    first = end.trials
    assert not BettingSequence(0.8, 0.001).update(np.ones(first - 1)).decision


def test_futility_never_changes_a_level_of_certificates() -> None:
    # A generous futility only stops paths: it certifies in no place where a strict one does not.
    for seed in range(200):
        generous = run(BettingSequence(0.9, 0.05, futility=0.5), 0.9, 500, seed)
        strict = run(BettingSequence(0.9, 0.05, futility=1e-9), 0.9, 500, seed)
        if generous.decision == Decision.CERTIFIED:
            assert strict == BettingSequence(0.9, 0.05, 1e-9, *_counts(generous))


def _counts(sequence: BettingSequence) -> tuple[int, int, Decision]:
    return sequence.successes, sequence.trials, sequence.decision


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_edges_are_decided_without_a_nan(threshold: float) -> None:
    mixed = BettingSequence(threshold, 0.05).update([0, 1] * 50)
    assert mixed.decision == (Decision.CERTIFIED if threshold == 0 else Decision.FUTILE)
    assert not BettingSequence(0.0, 0.05).update(np.zeros(100)).decision
    assert not BettingSequence(1.0, 0.05).update(np.ones(100)).decision
    assert BettingSequence(0.5, 0.05).update([]).trials == 0
    assert BettingSequence(0.5, 0.05).lower() == 0


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("threshold", lambda: BettingSequence(1.5, 0.05)),
        ("futility", lambda: BettingSequence(0.5, 0.05, futility=0)),
        ("alpha", lambda: BettingSequence(0.5, float("nan"))),
        ("3 of 2", lambda: BettingSequence(0.5, 0.05, successes=3, trials=2)),
        ("votes", lambda: BettingSequence(0.5, 0.05).update([0, 2])),
        ("votes", lambda: BettingSequence(0.5, 0.05).update([[0, 1]])),
    ],
)
def test_impossible_settings_and_votes_are_refused(named: str, wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=named):
        wrong()
