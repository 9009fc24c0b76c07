"""Carry a study out, draw it, and say what it found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from ... import plotting
from ...theory.studies import Study, carry_out
from ...training.folder import require_writable
from ..options import Machine
from ..report import console, counting
from .options import Kept

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Mapping[str, Any]], "Mapping[str, Figure]"]


def run(study: Study, kept: Kept, machine: Machine, draw: Draw) -> None:
    """Carry a study out in its folder, write its figures there, and print its claims."""
    folder = kept.out or Path("runs") / f"theory-{study.name}"
    require_writable(folder)
    machine.use()
    found = carry_out(study, folder, counting, overwrite=kept.overwrite)
    for name, figure in draw(found).items():
        _say(plotting.save(figure, folder / f"{name}.png"))
    _say(folder / f"{study.name}.json")
    table = Table("claim", "found", "holds", padding=(0, 1, 0, 0))
    for claim in study.claims(found):
        table.add_row(claim.says, claim.found, "yes" if claim.holds else "[red]no[/]")
    console.print(table)


def _say(path: Path) -> None:
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
