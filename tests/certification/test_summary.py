from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homotopy_deq import plotting
from homotopy_deq.certification import ABSTAIN, Certain, Certificate, Margin, Probable, Tally
from homotopy_deq.certification.statistics import binomial_band
from homotopy_deq.certification.summary import Summary, compare, grid
from homotopy_deq.plotting import certified_figure


def certificate(index: int, radius: float, right: bool = True) -> Certificate:
    prediction = ABSTAIN if radius == 0 else 3 if right else 4
    claim = Probable(prediction, radius, 0.9, "all samples drawn", 1e-3)
    return Certificate(index, 3, claim, Tally(3, 90, 5, 100), 1100)


EXAMPLE = [
    certificate(7, 0.5),
    certificate(2, 0.25),
    certificate(4, 1.0, right=False),
    certificate(9, 0),
]
SURE = Certificate(1, 3, Certain(3, 0.5), Margin(3, 1.0, 2.0), 1)
runs = st.lists(
    st.tuples(st.sampled_from([0, 0.1, 0.25, 0.5, 0.75, 1.3]), st.booleans()),
    min_size=1,
    max_size=12,
).map(lambda drawn: [certificate(k, *each) for k, each in enumerate(drawn)])


def test_a_wrong_class_and_an_abstention_count_as_errors() -> None:
    found = Summary.of(EXAMPLE)
    assert found.index.tolist() == [2, 4, 7, 9]
    # An image counts up to its radius, inclusive.
    assert found.accuracy([0, 0.25, 0.26, 0.5, 0.51]).accuracy.tolist() == [0.5, 0.5, 0.25, 0.25, 0]
    assert found.abstained == 0.25
    assert found.acr == (0.25 + 0.5) / 4
    assert found.reach == 0.5


def test_a_share_has_the_band_of_its_count() -> None:
    curve = Summary.of(EXAMPLE).accuracy([0, 0.5, 0.75, 2])
    assert (curve.low <= curve.accuracy).all() and (curve.accuracy <= curve.high).all()
    assert (curve.low[0], curve.high[0]) == binomial_band(2, 4)


def test_costs_are_of_all_samples_those_that_select_included() -> None:
    found = Summary.of(EXAMPLE, {2: 1.0, 4: 2.0, 7: 3.0, 9: 6.0}, n0=10)
    assert found.evaluations == 1100 / 110
    assert (found.per_image, found.samples, found.seconds) == (1100, 100, 3)
    assert found.undecided == 0.05
    assert math.isnan(Summary.of(EXAMPLE).seconds)


@given(runs)
def test_the_average_radius_is_the_area_under_the_curve(certificates: list[Certificate]) -> None:
    found = Summary.of(certificates)
    ends = np.unique(np.concatenate([[0.0], found.radius]))
    heights = found.accuracy(ends[1:]).accuracy  # constant up to each end, inclusive
    assert found.acr == pytest.approx(float(np.sum(np.diff(ends) * heights)), abs=1e-12)


@given(runs, runs)
def test_the_largest_difference_is_that_of_a_fine_grid(
    one: list[Certificate], other: list[Certificate]
) -> None:
    count = min(len(one), len(other))
    first, second = Summary.of(one[:count]), Summary.of(other[:count])
    found = compare(first, second)
    fine = np.arange(0, 1.5, 0.005)  # every radius drawn is a multiple
    gaps = first.accuracy(fine).accuracy - second.accuracy(fine).accuracy
    assert abs(found.difference) == pytest.approx(float(np.abs(gaps).max()), abs=1e-12)
    here = [float(run.accuracy([found.at]).accuracy[0]) for run in (first, second)]
    assert found.difference == pytest.approx(here[0] - here[1], abs=1e-12)


def test_a_speed_up_is_the_other_run_over_this_one() -> None:
    times = dict.fromkeys((2, 4, 7, 9), 2.0)
    fast = [replace(c, evaluations=275) for c in EXAMPLE]
    found = compare(Summary.of(fast, times), Summary.of(EXAMPLE, dict.fromkeys(times, 6.0)))
    assert (found.time, found.evaluations, found.difference) == (3, 4, 0)


def test_only_runs_of_the_same_images_are_compared() -> None:
    with pytest.raises(ValueError, match="4 and 3 images, 3 in common"):
        compare(Summary.of(EXAMPLE), Summary.of(EXAMPLE[:3]))


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ([], "no certificates"),
        ([EXAMPLE[0], EXAMPLE[0]], "image 7 has two certificates"),
        ([EXAMPLE[0], SURE], "each with probability 0.999 in l2 and for certain in l2"),
    ],
)
def test_what_makes_no_curve_is_refused(bad: list[Certificate], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Summary.of(bad)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Certain(3, math.nan), "a radius must be finite and 0 or more; got nan"),
        (lambda: Certain(3, math.inf), "finite"),
        (lambda: Certain(ABSTAIN, 0.5), "an abstention"),
        (lambda: Certain(3, 0.0), "class 3 with radius 0"),
        (lambda: Tally(3, 96, 5, 100), "96 votes and 5 undecided of 100"),
    ],
)
def test_impossible_claims_and_counts_are_refused(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


@given(st.floats(0, 50))
def test_a_grid_covers_what_is_certified_in_a_table_of_some_columns(reach: float) -> None:
    radii = grid(reach)
    assert radii[:2] == [0, radii[1]] and len(radii) <= 9
    assert radii[-1] >= 1 and radii[-1] + radii[1] > reach


def test_a_curve_falls_at_each_radius_and_its_band_holds_it(tmp_path: Path) -> None:
    figure = certified_figure({"a": Summary.of(EXAMPLE), "b": Summary.of(EXAMPLE[:2])})
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata() for line in axes.get_lines()}
    x, y = np.asarray(lines["a"]).T
    assert x.tolist() == [0, 0.25, 0.5, 0.5]
    assert y.tolist() == [50, 50, 25, 0]
    assert axes.get_lines()[0].get_drawstyle() == "steps-pre"  # from 0.25 on to 0.5 it is 25
    band = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    ends = 100 * binomial_band(1, 4)[0], 100 * binomial_band(2, 4)[1]
    assert (band.min(), band.max()) == pytest.approx(ends)
    assert plotting.save(figure, tmp_path / "curve.png").read_bytes()[1:4] == b"PNG"
