"""A record says what was typed, so that it can be typed again."""

from __future__ import annotations

import shlex
import sys

import pytest

from experiments.results import ROOT, command


def test_a_command_is_read_by_a_shell_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--only", "a word, and more", "--rate=0.1", f"{ROOT}/runs/x"]
    monkeypatch.setattr(sys, "argv", [f"{ROOT}/experiments/demo.py", *words])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    wanted = ["python", "experiments/demo.py", *words[:-1], "runs/x"]
    assert shlex.split(command()) == wanted
