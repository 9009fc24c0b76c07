from __future__ import annotations

import json
from typing import Any

import pytest

from experiments.delta_bounds import Config, main


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("delta_bounds")
    config = Config(
        batches=16, draws=20, hidden=64, samples=4, trained=32, steps=20, budget=0.1, rounds=1,
        device="cpu", work=folder / "work",
    )  # fmt: skip
    main(config, folder)
    written: dict[str, Any] = json.loads((folder / "delta_bounds.json").read_text())["result"]
    return written


def test_no_bound_is_broken_and_they_are_nearly_met(found: dict[str, Any]) -> None:
    bounds = found["bounds"]
    assert (bounds["solves"], bounds["prior broken"], bounds["posterior broken"]) == (320, 0, 0)
    assert 0.5 < bounds["largest error / bound"]["prior"] <= 1


def test_a_heterogeneous_model_gains_and_a_homogeneous_one_less(found: dict[str, Any]) -> None:
    saved = {
        kind: found[kind]["DeltaPicard 0.3, entries"] / found[kind]["Picard"]
        for kind in ("heterogeneous", "homogeneous")
    }
    assert saved["heterogeneous"] < 0.6 and saved["heterogeneous"] < saved["homogeneous"]


def test_each_way_to_solve_the_trained_model_is_told(found: dict[str, Any]) -> None:
    rows = {name: row for name, row in found["trained"].items() if isinstance(row, dict)}
    assert rows["40 iterations"]["dense evaluations' worth"] == 40
    assert all(row["milliseconds"] > 0 for name, row in rows.items() if name != "tau")
