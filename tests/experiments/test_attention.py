"""The attention cell of a language model has one equilibrium, whichever solver finds it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.attention import EVERY, Config, main
from experiments.language_training import Training
from experiments.tables.language import attention


def test_every_solver_is_compared_with_every_other_on_a_trained_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(batch=2, length=8)
    config = Config(channels=8, heads=2, training=training, characters=2000, steps=3, windows=2)
    main(config, tmp_path)
    found = json.loads((tmp_path / "attention.json").read_text())["result"]
    # Residuals of 2e-6 and 1e-11, over 1 - ||J||.
    for name, apart in (("float32", 1e-4), ("float64", 1e-9)):
        assert len(found[name]["pairs"]) == len(EVERY) * (len(EVERY) - 1) // 2
        assert 0 < found[name]["worst pair"] < apart
        assert all(row["converged"] == 2 for row in found[name]["solvers"].values())
    monkeypatch.setattr("experiments.tables.markdown.RESULTS", tmp_path)
    page = attention()
    assert all(f"| {name} | 2 | " in page for name in EVERY)
    assert f"{found['float64']['worst pair']:.0e} in float64" in page
