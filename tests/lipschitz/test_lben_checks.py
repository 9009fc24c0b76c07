"""What bounded networks promise, held by the experiment that measures it, at a small size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.lben_checks import Config, gains, impulse, intervals, main, program
from experiments.lben_rates import rates

TINY = Config(pairs=100, ascent=3, draws=2, neurons=12, large=12, boxes=100)


def test_no_pair_of_inputs_has_a_gain_above_the_proved_one() -> None:
    found = gains(TINY)["structures"]
    assert len(found) == 11
    for name, row in found.items():
        assert row["above"] == 0 and 0.1 < row["tightness"] <= 1, name
    # Where the inequality is an equality, the bound is nearly reached.
    assert found["Sandwich"]["tightness"] > 0.5


@pytest.mark.slow
def test_no_pair_of_ten_thousand_has_a_gain_above_the_proved_one() -> None:
    assert all(row["above"] == 0 for row in gains(Config())["structures"].values())


def test_convolutions_have_no_singular_value_above_one_after_25_steps() -> None:
    found = impulse(TINY)
    assert set(found) == {"CPL", "SLL", "AOL", "Sandwich"}
    for kind, row in found.items():
        for values in row.values():
            assert values[1] <= 1 + 1e-12, kind  # 192 columns of entries below 1 round so
    assert found["CPL"]["all neurons on"][1] > 0.999


def test_no_output_of_ten_thousand_points_leaves_its_interval() -> None:
    found = intervals(Config())
    assert found["samples"] == 10_000 and found["outside"] == 0
    assert found["share of an interval reached"] > 0.2


def test_no_splitting_contracts_less_than_predicted() -> None:
    for row in rates(2, 0)["splittings"].values():
        assert 0.3 < row["largest measured over predicted"] <= 1 + 1e-6


def check(found: dict[str, dict[str, float]]) -> None:
    for row in found.values():
        assert row["sampled"] <= row["proved"] < row["trivial"]
        assert row["proved"] <= row["claimed"] * (1 + 1e-9)  # re-checked by its eigenvalues


def test_a_program_proves_less_than_the_product_of_norms_at_every_monotonicity() -> None:
    pytest.importorskip("cvxpy")
    check(program(TINY))


@pytest.mark.slow
def test_a_program_of_200_neurons_takes_less_than_half_a_minute() -> None:
    pytest.importorskip("cvxpy")
    found = program(Config())
    check(found)
    assert found["m = 1, 200 neurons"]["seconds"] < 30


def test_parts_are_kept_and_not_measured_twice(tmp_path: Path) -> None:
    config = Config(work=tmp_path / "work", out=tmp_path)
    main(config, "intervals")
    first = (tmp_path / "work" / "intervals.json").read_text()
    main(config, "intervals")
    assert (tmp_path / "work" / "intervals.json").read_text() == first
    body = json.loads((tmp_path / "lben_checks.json").read_text())
    assert list(body["result"]) == ["intervals"]
