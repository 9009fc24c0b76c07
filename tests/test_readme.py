"""The README's figures are those of the committed results."""

from __future__ import annotations

from pathlib import Path

from experiments.tables import BEGIN, END, measured

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_tables_are_what_the_committed_results_say() -> None:
    shown = README.split(BEGIN)[1].split(END)[0].strip()
    assert shown == measured(), "run python experiments/tables.py"


def test_first_two_commands_are_the_ones_that_work_in_a_fresh_clone() -> None:
    first = README.split("```sh\n")[1].split("```")[0]
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    commands = [line.split("#")[0].strip() for line in first.strip().splitlines()]
    assert commands == ["make demo", "make test"]
    for command in commands:
        assert f"\n{command.split()[1]}:" in makefile
