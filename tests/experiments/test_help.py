"""To ask an experiment what it is runs nothing, and writes nothing."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments"
NAMES = sorted(f.stem for f in FOLDER.glob("*.py") if "\nif __name__ ==" in f.read_text())


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
@pytest.mark.parametrize("name", [*NAMES, "tables"])
@pytest.mark.parametrize(("word", "code"), [("--help", 0), ("--such-as-none", 2)])
def test_an_experiment_says_what_it_is_and_refuses_what_it_does_not_know(
    name: str, word: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [name, word])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    assert left.value.code == code
