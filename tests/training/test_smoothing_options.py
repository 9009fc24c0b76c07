from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from typer.testing import CliRunner

from homotopy_deq.cli import app
from homotopy_deq.cli.resolve import resolve
from homotopy_deq.cli.trained import settings_of
from homotopy_deq.training import (
    CHECKPOINT,
    SmoothTraining,
    TrainConfig,
    load_checkpoint,
    save_checkpoint,
)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(True)  # it keeps the first precision that a process asked for


def test_a_run_from_before_there_was_noise_can_be_resumed(tmp_path: Path) -> None:
    words = ["train", "--limit", "60", "--hidden", "4", "--head", "8", "--epochs", "1", "--cpu"]
    words += ["--groups", "2", "--solver", "anderson", "--rtol", "0.1", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, words).exit_code == 0
    stored = load_checkpoint(tmp_path / CHECKPOINT)
    about = stored.meta["about"]
    new = [name for name in about["spec"] if name.split("_")[0] in ("noise", "adversary")]
    new += ["consistency", "consistency_entropy"]
    spec = {k: v for k, v in about["spec"].items() if k not in new}
    training = {k: v for k, v in about["training"].items() if k != "smoothing"}
    assert len(spec) == len(about["spec"]) - 6 and len(training) == len(about["training"]) - 1
    old = {**stored.meta, "about": {**about, "spec": spec, "training": training}}
    save_checkpoint(tmp_path / CHECKPOINT, replace(stored, meta=old))
    assert settings_of(load_checkpoint(tmp_path / CHECKPOINT)).training.smoothing is None
    done = CliRunner().invoke(app, [*words, "--resume"])
    assert done.exit_code == 0, done.output


def test_a_run_that_kept_no_default_of_its_noise_has_it_still(tmp_path: Path) -> None:
    words = ["train", "--limit", "60", "--hidden", "4", "--epochs", "1", "--cpu"]
    words += ["--noise", "0.25", "--consistency", "5", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, words).exit_code == 0
    stored = load_checkpoint(tmp_path / CHECKPOINT)
    settings = settings_of(stored)
    for name in ("noise_samples", "adversary_steps", "adversary_radius", "consistency_entropy"):
        stored.meta["about"]["spec"][name] = None  # as version 0.1.0 wrote it
    assert settings_of(stored) == settings


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"noise": 0.0}, "noise must be a standard deviation above 0"),
        ({"noise": math.nan}, "noise must be .*; got nan"),
        ({"samples": 0}, "noise_samples must be at least 1; got 0"),
        ({"adversary_steps": -1}, "adversary_steps must be 0 or more; got -1"),
        ({"adversary_steps": 2}, "both be above 0, or neither; got 2 and 0.0"),
        ({"adversary_radius": 0.5}, "both be above 0, or neither; got 0 and 0.5"),
        ({"consistency": 1.0}, "noise_samples must be at least 2; got 1"),
        ({"entropy": -1.0}, "consistency_entropy must be 0 or more; got -1.0"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        SmoothTraining(**{"noise": 0.25, **settings})


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--noise", "0"], "noise must be a standard deviation above 0"),
        (["--adversary-steps", "2"], "--adversary-steps: these train for certification"),
        (["--consistency", "5", "--noise-samples", "2"], "--noise-samples, --consistency: these"),
        (["--noise", "0.2", "--consistency-entropy", "1"], "goes with --consistency"),
    ],
)
def test_what_needs_noise_is_refused_without_it(
    flags: list[str], told: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["train", *flags, "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and told in done.output
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_how_to_train() -> None:
    given = {"noise": 0.25, "consistency": 10.0, "adversary_steps": 2, "adversary_radius": 0.5}
    expected = SmoothTraining(0.25, 2, 2, 0.5, 10.0)  # two draws where they are to agree
    assert resolve(given).training.smoothing == expected
    assert resolve({}).training.smoothing is TrainConfig().smoothing is None
    assert resolve({}).named()["noise"] is None
