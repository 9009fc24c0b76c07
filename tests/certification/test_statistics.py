"""Coverage by summation over the binomial, not by simulation, and the values of the literature."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from functools import cache

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, hypergeom

from experiments.rules import (
    product_lower,
    randomized_clopper_pearson,
    srs_paper_lower,
    srs_theorem_lower,
)
from homotopy_deq.certification.statistics import (
    audited_lower,
    binomial_band,
    clopper_pearson,
    floor_radius,
    hypergeometric_upper,
    radius,
    required_probability,
)

LEVELS = (0.05, 0.001, 1e-6)
levels = st.floats(1e-9, 0.5)


@st.composite
def samples(draw: st.DrawFn) -> tuple[int, int]:
    trials = draw(st.integers(1, 20000))
    return draw(st.integers(0, trials)), trials


def tail(k: int, n: int, p: float) -> Fraction:
    """P(Bin(n, p) >= k), exactly: a double is a fraction."""
    exact = Fraction(p)
    return sum(
        (math.comb(n, i) * exact**i * (1 - exact) ** (n - i) for i in range(k, n + 1)), Fraction(0)
    )


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize("n", [1, 2, 5, 20, 60])
def test_bound_is_the_last_p_that_the_votes_exclude(n: int, alpha: float) -> None:
    for k in range(1, n + 1):
        p = clopper_pearson(k, n, alpha)
        # In exact arithmetic: not beyond, and short of it by no more than the slack of 1e-9.
        assert tail(k, n, p) <= Fraction(alpha)
        assert tail(k, n, p) >= Fraction(alpha) * Fraction(1 - 3e-9)


@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize("n", [1, 10, 100, 1000, 10000])
def test_bound_exceeds_p_with_probability_alpha_at_most(n: int, alpha: float) -> None:
    bounds = np.array([clopper_pearson(k, n, alpha) for k in range(n + 1)])
    # Beside a grid, the worst p: just below a bound.
    worst = np.nextafter(bounds[1 :: max(1, n // 50)], 0)
    for p in [0.0, 1e-3, 0.25, 0.5, 0.9, 0.999, 1.0, *worst]:
        k = int(np.searchsorted(bounds, p, side="right"))  # first whose bound is above p
        assert binom.sf(k - 1, n, p) <= alpha
    assert max(binom.sf(np.searchsorted(bounds, worst, side="right") - 1, n, worst)) > 0.999 * alpha


@pytest.mark.parametrize("n", [1, 7, 20])
def test_randomized_bound_exceeds_p_with_probability_alpha_exactly(n: int) -> None:
    alpha = 0.05

    def miss(k: int, p: float) -> float:
        """The share of u for which the bound is above p."""
        low, high = 0.0, 1.0
        if randomized_clopper_pearson(k, n, alpha, 0.0) > p:
            return 1.0
        for _ in range(24):
            middle = (low + high) / 2
            if randomized_clopper_pearson(k, n, alpha, middle) > p:
                high = middle
            else:
                low = middle
        return 1 - high

    for p in (0.2, 0.5, 0.93):
        total = sum(binom.pmf(k, n, p) * miss(k, p) for k in range(n + 1))
        assert total == pytest.approx(alpha, abs=2**-23)  # 24 halvings of u


@given(samples(), levels, st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_randomized_bound_lies_between_two_neighbours_of_the_plain_one(
    sample: tuple[int, int], alpha: float, u: float
) -> None:
    k, n = sample
    plain, bound = clopper_pearson(k, n, alpha), randomized_clopper_pearson(k, n, alpha, u)
    above = clopper_pearson(k + 1, n, alpha) if k < n else 1.0
    assert plain <= bound < 1
    assert bound <= above * (1 + 1e-9)  # each is rounded down by itself
    # by two functions of SciPy's, whose last digits may differ
    assert randomized_clopper_pearson(k, n, alpha, 0.0) == pytest.approx(plain, rel=1e-9)


@given(samples(), levels)
@settings(deadline=None)
def test_bound_grows_with_votes_and_alpha_and_stays_below_the_share(
    sample: tuple[int, int], alpha: float
) -> None:
    k, n = sample
    bound = clopper_pearson(k, n, alpha)
    assert 0 <= bound < 1
    assert bound <= k / n
    assert bound <= clopper_pearson(k, n, min(2 * alpha, 0.9)) or k == 0
    assert bound <= clopper_pearson(min(k + 1, n), n, alpha)


@pytest.mark.parametrize("alpha", LEVELS)
def test_no_votes_certify_nothing_and_all_votes_the_root_of_alpha(alpha: float) -> None:
    assert clopper_pearson(0, 100, alpha) == 0
    assert clopper_pearson(0, 0, alpha) == 0
    # The slack of 1e-9 on alpha is one of 1e-9 / n on its root.
    assert clopper_pearson(100, 100, alpha) == pytest.approx(alpha**0.01, rel=1e-10)


@pytest.mark.parametrize("population, audited", [(1, 1), (7, 3), (30, 12), (30, 30), (50, 0)])
def test_audit_misses_more_wrong_votes_with_probability_alpha_at_most(
    population: int, audited: int
) -> None:
    alpha = Fraction(0.05)
    draws = math.comb(population, audited)
    upper = [hypergeometric_upper(population, audited, b, float(alpha)) for b in range(audited + 1)]
    assert upper == sorted(upper)
    for wrong in range(population + 1):
        missed = sum(
            math.comb(wrong, b) * math.comb(population - wrong, audited - b)
            for b in range(min(wrong, audited) + 1)
            if upper[b] < wrong
        )
        assert Fraction(missed, draws) <= alpha


@pytest.mark.parametrize("population, audited, found", [(10000, 400, 0), (9000, 2000, 7)])
def test_audit_bound_is_the_largest_that_the_audit_allows(
    population: int, audited: int, found: int
) -> None:
    def cdf(wrong: int) -> Fraction:
        """P(Hypergeom <= found), in whole numbers."""
        ways = sum(
            math.comb(wrong, b) * math.comb(population - wrong, audited - b)
            for b in range(found + 1)
        )
        return Fraction(ways, math.comb(population, audited))

    most = hypergeometric_upper(population, audited, found, 0.001)
    assert cdf(most) > Fraction(0.001) >= cdf(most + 1)


def test_complete_audit_knows_the_number_of_wrong_votes() -> None:
    assert hypergeometric_upper(50, 50, 3, 0.05) == 3
    lower, wrong = audited_lower(50, 60, 50, 3, 0.05, split=0.5)
    assert (lower, wrong) == (clopper_pearson(47, 60, 0.025), 3)


@pytest.mark.parametrize("split", [0.1, 0.7, 0.99])
def test_no_adversary_makes_the_audit_certify_falsely_more_often_than_alpha(split: float) -> None:
    # Whatever G's votes are, S may add any number of wrong ones, and choose it after seeing G's.
    n, k, alpha = 24, 8, 0.1

    @cache
    def lower(votes: int, audited: int, found: int) -> float:
        return audited_lower(votes, n, audited, found, alpha, split)[0]

    def chance(right: int, wrong: int, p: float) -> float:
        votes = right + wrong
        audited = min(k, votes)
        return sum(
            float(hypergeom.pmf(b, votes, wrong, audited))
            for b in range(min(audited, wrong) + 1)
            if lower(votes, audited, b) > p
        )

    for p in (0.3, 0.5, 0.8):
        false = sum(
            binom.pmf(right, n, p) * max(chance(right, wrong, p) for wrong in range(n - right + 1))
            for right in range(n + 1)
        )
        assert false <= alpha * (1 + 1e-9)  # rounding of the sum


@pytest.mark.parametrize("share, agree", [(0.53, 0.85), (0.9, 0.99), (0.6, 1.0)])
def test_product_exceeds_p_with_probability_alpha_at_most(share: float, agree: float) -> None:
    n, k, alpha = 200, 60, 0.05
    p = share * agree
    false = 0.0
    for votes in range(k, n + 1):
        bound = [product_lower(votes, n, k, b, alpha) > p for b in range(k + 1)]
        false += binom.pmf(votes, n, share) * binom.pmf(np.arange(k + 1), k, 1 - agree) @ bound
    assert binom.cdf(k - 1, n, share) < 1e-6  # fewer than k votes, left out above
    assert false <= alpha


def test_rule_of_the_released_srs_code_certifies_falsely_and_the_theorem_does_not() -> None:
    # S says A in .53 of the samples, G in .45; 1200 of 5300 votes are wrong. A random audit of
    # 400 finds some 60 of them.
    n, votes, audited, found = 10000, 5300, 400, 60
    assert srs_paper_lower(votes, n, audited, found, 0.001) > 0.5
    assert srs_theorem_lower(votes, n, audited, found, 0.001) < 0.45
    assert audited_lower(votes, n, audited, found, 0.001)[0] < 0.45
    assert product_lower(votes, n, audited, found, 0.001) < 0.45


def test_largest_radii_are_those_of_the_analysis() -> None:
    # N = 1e4, K = 400, alpha = .001, no disagreement. All to the two decimals that are given.
    n, k, alpha = 10000, 400, 0.001
    assert radius(srs_theorem_lower(n, n, k, 0, alpha), 1) == pytest.approx(1.98, abs=5e-3)
    assert radius(clopper_pearson(n, n, alpha / 2), 1) == pytest.approx(3.17, abs=5e-3)
    assert radius(clopper_pearson(9900, n, alpha), 1) == pytest.approx(2.212, abs=5e-3)
    # The claim above the theorem's is what the released rule adds.
    assert radius(srs_paper_lower(n, n, k, 0, alpha), 1) > 3.15


@pytest.mark.parametrize(
    "votes, loss, audit",
    [(9000, 0.01, 4000), (9000, 0.05, 590), (9900, 0.05, 1800), (9990, 0.05, 6400)],
)
def test_audit_that_costs_a_given_share_of_the_radius_has_the_size_of_the_analysis(
    votes: int, loss: float, audit: int
) -> None:
    # Sizes to two digits: within 3%. The analysis splits alpha evenly.
    wanted = (1 - loss) * radius(clopper_pearson(votes, 10000, 1e-3), 1)
    less, more = int(0.97 * audit), int(1.03 * audit)
    assert radius(product_lower(votes, 10000, less, 0, 1e-3, split=0.5), 1) < wanted
    assert radius(product_lower(votes, 10000, more, 0, 1e-3, split=0.5), 1) > wanted


@pytest.mark.parametrize("votes", [7000, 9000, 9900, 9990])
@pytest.mark.parametrize("audited", [200, 1000, 4000])
def test_default_split_loses_a_percent_of_the_best_radius_at_most(votes: int, audited: int) -> None:
    splits = (None, 0.3, 0.5, 0.8, 0.9)
    settings = [{} if split is None else {"split": split} for split in splits]
    radii = [radius(audited_lower(votes, 10000, audited, 0, 1e-3, **s)[0], 1) for s in settings]
    assert radii[0] >= 0.99 * max(radii)


@given(st.floats(0, 1, exclude_max=True), st.floats(1e-3, 10))
@settings(deadline=None)
def test_radius_is_never_above_the_exact_one(p: float, sigma: float) -> None:
    found = radius(p, sigma)
    if p <= 0.5:
        assert found == 0
        return
    with mpmath.workdps(50):
        exact = sigma * mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1)
        assert found <= exact
        assert found >= exact * (1 - mpmath.mpf(2e-14))  # twice the 32 ulp that it is lowered by


@given(st.floats(0, 9), st.floats(1e-3, 10))
@settings(deadline=None)
def test_probability_required_for_a_radius_suffices(r: float, sigma: float) -> None:
    needed = required_probability(r, sigma)
    with mpmath.workdps(50):
        exact = mpmath.ncdf(mpmath.mpf(r) / mpmath.mpf(sigma))
        assert needed == 1 or (exact <= needed <= exact + 2e-15)  # four ulp of a number near 1


@given(st.floats(0, 100), st.integers(0, 6))
def test_printed_radius_is_never_above_the_certified_one(r: float, digits: int) -> None:
    shown = f"{floor_radius(r, digits):.{digits}f}"
    assert Decimal(shown) <= Decimal(r) < Decimal(shown) + Decimal(1).scaleb(-digits)
    assert floor_radius(r, digits) <= r
    assert floor_radius(floor_radius(r, digits), digits) <= floor_radius(r, digits)


def test_printed_radius_is_not_the_nearest() -> None:
    assert floor_radius(1.98999, 2) == 1.98
    assert floor_radius(1e150, 6) == 1e150  # of a classifier that is constant
    assert floor_radius(0.29999999999999993, 3) == 0.299


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_band_covers_with_its_level(level: float) -> None:
    n = 50
    bands = [binomial_band(k, n, level) for k in range(n + 1)]
    for p in np.linspace(0, 1, 41):
        covered = sum(binom.pmf(k, n, p) for k, (low, high) in enumerate(bands) if low <= p <= high)
        assert covered >= level - 1e-9  # rounding of the sum
    assert bands[0][0] == 0 and bands[n][1] == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: clopper_pearson(11, 10, 0.1), "between 0 and the number of samples; got 11 of 10"),
        (lambda: clopper_pearson(-1, 10, 0.1), "got -1 of 10"),
        (lambda: clopper_pearson(1.5, 10, 0.1), "whole numbers; got 1.5"),  # type: ignore[arg-type]
        (lambda: clopper_pearson(1, 10, 1.0), r"alpha must be in \(0, 1\); got 1.0"),
        (lambda: clopper_pearson(0, 10, float("nan")), "alpha must be in"),
        (lambda: hypergeometric_upper(10, 11, 0, 0.1), "at most population, 10; got 11"),
        (lambda: hypergeometric_upper(10, 5, 6, 0.1), "got 6 of 5"),
        (lambda: audited_lower(10, 20, 11, 0, 0.1), "audited must be at most votes, 10; got 11"),
        (lambda: audited_lower(10, 20, 5, 0, 0.1, split=1), "split, the audit's share"),
        (lambda: radius(float("nan"), 1), "p must be a lower bound"),
        (lambda: radius(1.0, 1), "p must be a lower bound"),
        (lambda: radius(0.9, 0), "sigma must be positive"),
        (lambda: required_probability(-1, 1), "radius must be 0 or more"),
        (lambda: floor_radius(float("nan")), "radius must be finite"),
        (lambda: floor_radius(-0.1), "radius must be finite"),
        (lambda: binomial_band(1, 2, 1.0), "level must be in"),
    ],
)
def test_impossible_arguments_are_refused_with_a_reason(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("alpha", [1.2, 0.0, -0.1, float("nan")])
def test_a_level_that_is_no_probability_is_refused_before_it_is_divided(alpha: float) -> None:
    """Halves of 1.2 would be levels."""
    with pytest.raises(ValueError, match="alpha"):
        audited_lower(50, 60, 20, 1, alpha, split=0.5)
