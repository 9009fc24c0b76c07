"""An experiment's seconds are those of its work, whichever of its calls did it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import kept
from experiments.kept import OtherCommit, made, making
from experiments.results import ROOT


def test_seconds_are_those_of_every_call_that_made_the_runs(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    ticks = iter([10.0, 13.0, 100.0, 104.0, 200.0, 201.5])
    for folder in (one, one, other):  # the second call goes on with what the first has left
        with making(folder, lambda: next(ticks)):
            folder.mkdir(exist_ok=True)
    found = made([one, other])
    assert (found.seconds, found.killed) == (8.5, 0)
    assert made([one]).seconds == 7.0  # reading what is there adds nothing
    assert made([one]).started <= made([other]).started


def test_a_call_that_ctrl_c_or_an_error_ended_counts_with_its_seconds(tmp_path: Path) -> None:
    ticks = iter([10.0, 13.0])
    with pytest.raises(KeyboardInterrupt), making(tmp_path / "run", lambda: next(ticks)):
        (tmp_path / "run").mkdir()
        raise KeyboardInterrupt
    found = made([tmp_path / "run"])
    assert (found.seconds, found.killed) == (3.0, 0)


def test_a_call_that_was_killed_is_counted_and_its_seconds_are_those_written_last(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    program = f"""
import os, time
from pathlib import Path
from experiments.kept import making
with making(Path({str(folder)!r}), every=0.05):
    Path({str(folder)!r}).mkdir()
    time.sleep(1)
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 9
    found = made([folder])
    assert found.killed == 1 and 0.5 < found.seconds < 1.5
    ticks = iter([0.0, 2.0])
    with making(folder, lambda: next(ticks)):
        pass
    assert made([folder]).killed == 1 and made([folder]).seconds == found.seconds + 2.0


def test_what_another_commit_made_is_not_published_as_this_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(OtherCommit, match="an unknown commit"):
        made([folder])
    folder.rmdir()
    with making(folder):
        folder.mkdir()
    assert json.loads((tmp_path / "run.made.json").read_text())["commit"] == kept.commit()
    monkeypatch.setattr(kept, "commit", lambda: "later")
    for again in (lambda: made([folder]), lambda: making(folder).__enter__()):
        with pytest.raises(OtherCommit, match="this is later.*Delete it"):
            again()
