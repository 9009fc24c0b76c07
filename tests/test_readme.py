"""The README is short, and its figures and those of docs/results.md are the committed results'."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.tables.__main__ import pages, shown
from experiments.tables.markdown import anchor, measured

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_tables_are_what_the_committed_results_say(page: Path) -> None:
    assert shown(page) == pages()[page], "run python -m experiments.tables"


def test_first_two_commands_are_the_ones_that_work_in_a_fresh_clone() -> None:
    first = README.split("```sh\n")[1].split("```")[0]
    makefile = (ROOT / "Makefile").read_text()
    commands = [line.split("#")[0].strip() for line in first.strip().splitlines()]
    assert commands == ["make demo", "make test"]
    for command in commands:
        assert f"\n{command.split()[1]}:" in makefile


def test_readme_is_read_at_one_sitting() -> None:
    assert len(README.splitlines()) <= 110


def test_each_claim_has_its_command_and_its_table() -> None:
    titles = {
        anchor(line.removeprefix("## "))
        for line in (ROOT / "docs" / "results.md").read_text().splitlines()
        if line.startswith("## ")
    }
    claims = shown(ROOT / "README.md").splitlines()[2:]
    assert len(claims) == 6 + measured("compare_digits")
    for claim in claims:
        links = re.findall(r"docs/results\.md#([^)]+)\)", claim)
        assert links and set(links) <= titles
        commands = [shlex.split(code) for code in re.findall(r"`(python [^`]+)`", claim)]
        assert len(commands) == len(links)
        for python, option, module, *_ in commands:
            assert (python, option) == ("python", "-m") and find_spec(module) is not None


def test_a_script_called_by_its_path_says_in_one_line_what_to_call() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "agreement.py")], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stdout == ""
    said = "Call `python -m experiments.agreement` from the root of the clone.\n"
    assert done.stderr == said
