"""The experiment on false certificates, small: sound rules stay in the band, others leave it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy.stats import binom

from experiments import coverage
from experiments.coverage import SOUND, UNSOUND, Config, most, simulate, surprises

# A larger share is audited and the drift is stronger, so that few samples show what is wrong.
SMALL = Config(runs=300, samples=1000, audit=300, drift=1.0)


@pytest.fixture(scope="module")
def false() -> dict[str, dict[str, int]]:
    return simulate(SMALL)


@pytest.mark.parametrize("rule", SOUND)
def test_sound_rule_certifies_falsely_no_more_often_than_alpha(
    rule: str, false: dict[str, dict[str, int]]
) -> None:
    assert false[rule]
    assert all(count <= most(SMALL) for count in false[rule].values())


@pytest.mark.parametrize("rule", UNSOUND)
def test_unsound_rule_is_caught(rule: str, false: dict[str, dict[str, int]]) -> None:
    assert false[rule]
    assert all(count > most(SMALL) for count in false[rule].values())


def test_randomised_bound_spends_all_of_alpha(false: dict[str, dict[str, int]]) -> None:
    least = binom.ppf(1e-3, SMALL.runs, SMALL.alpha)
    assert false["verified votes, randomised"]["independent"] >= least


def test_experiment_reports_both_kinds_of_surprise() -> None:
    found = surprises({"random audit": {"drifting": 101}, "SRS, released code": {"x": 99}}, 100)
    assert [line.split(",")[0] for line in found] == ["random audit", "SRS"]
    assert not surprises({"random audit": {"drifting": 100}, "audit of the first": {"x": 101}}, 100)


def test_runs_are_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    few = replace(SMALL, runs=5)
    monkeypatch.setattr(coverage, "SCENARIOS", {"one-sided": coverage.one_sided})
    assert simulate(few) == simulate(few)
