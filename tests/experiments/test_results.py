"""A record says what was typed, so that it can be typed again, and of which code it is."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import make_dataclass
from pathlib import Path

import pytest

from experiments import results
from experiments.results import ROOT, Record, command


def test_a_command_is_read_by_a_shell_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--only", "a word, and more", "--rate=0.1", f"{ROOT}/runs/x"]
    monkeypatch.setattr(sys, "argv", [f"{ROOT}/experiments/demo.py", *words])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    wanted = ["python", "experiments/demo.py", *words[:-1], "runs/x"]
    assert shlex.split(command()) == wanted


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [("a", "a", "a"), ("a", "b", "a+changes"), ("a+changes", "a+changes", "a+changes")],
)
def test_a_result_is_of_the_commit_that_was_begun_at(
    then: str, now: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "commit", lambda: then)
    record = Record("one", make_dataclass("Config", [("seed", int, 0)])())
    monkeypatch.setattr(results, "commit", lambda: now)
    assert json.loads(record.write({}, tmp_path).read_text())["commit"] == said
