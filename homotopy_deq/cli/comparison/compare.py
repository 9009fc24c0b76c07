"""homotopy-deq compare"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import typer
from rich.box import SIMPLE
from rich.table import Table

from ... import plotting
from ...comparison import Row, bands, cells, markdown, summarise, unequal
from ...training.checkpoint import replace_file
from ...training.folder import require_writable
from ..names import Pass
from ..options import Machine
from ..report import console, counting, warn
from ..train import say
from .children import Task, work
from .options import Compare
from .plan import Entry, Run, plan
from .runs import epochs, figures, measure, measured, train

FILES = "compare.json", "compare.md", "compare.png"


def command(chosen: Compare) -> None:
    """Train, or go on; measure what is trained; show and write what is measured."""
    found = compare(chosen)
    show(found)
    table, drawing = (found.folder / name for name in FILES[1:])
    replace_file(found.folder / FILES[0], (json.dumps(found.body(), indent=2) + "\n").encode())
    if found.rows:
        replace_file(table, (markdown(found.rows) + "\n").encode())
        plotting.save(plotting.comparison_figure(found.rows), drawing)
        say(f"wrote {', '.join(FILES)} to {found.folder}")
    if found.left:
        say(f"{found.left} runs are not done: the same command goes on with them.")
    if found.faults:
        raise typer.Exit(1)


@dataclass
class Comparison:
    """What is known of a comparison so far.

    Arguments:
        folder: of its runs.
        images: what they are trained and tested on.
        entries: its models.
        notes: what there is to say of them.
        rows: of the models all of whose seeds are done, see `summarise`.
        runs: the figures of each seed that is done, by model.
        faults: what went wrong, by run.
        left: runs that are not done.
    """

    folder: Path
    images: dict[str, Any]
    entries: Sequence[Entry]
    notes: list[str]
    rows: dict[str, Row] = field(default_factory=dict)
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    left: int = 0

    def body(self) -> dict[str, Any]:
        """Return it as JSON."""
        settings = {entry.name: entry.settings.named() for entry in self.entries}
        return {
            "images": self.images,
            "notes": self.notes,
            "models": {
                name: {**row, "settings": settings[name], "runs": self.runs[name]}
                for name, row in self.rows.items()
            },
            "faults": self.faults,
            "runs that are not done": self.left,
        }


def compare(chosen: Compare) -> Comparison:
    """Do what is left of a comparison, and return what is known of it.

    Raises:
        ValueError: a name or a setting is not valid, or is not that of the runs in the folder.
        KeyboardInterrupt: a signal asked to stop; the folder holds everything up to then.
    """
    for name in chosen.swap or ():
        Pass(name)  # raises ValueError where there is none of the name
    entries, images, notes = plan(chosen.models, chosen.settings, download=chosen.download)
    first = entries[0].settings
    folder = chosen.out or Path("runs") / f"compare-{first.data.name}"
    require_writable(folder)
    seeds = range(first.training.seed, first.training.seed + chosen.seeds)
    runs = [entry.run(folder, seed) for seed in seeds for entry in entries]
    for run in runs:
        run.check()
    if (told := unequal({entry.name: entry.parameters for entry in entries})) is not None:
        notes.append(told)
    counts = ", ".join(f"{entry.name} {entry.parameters:,}" for entry in entries)
    say(
        f"{len(entries)} models, {chosen.seeds} seeds, {first.training.epochs} epochs on "
        f"{len(images.train_labels):,} images of {images.name} ({images.source}), into {folder}; "
        f"parameters: {counts}"
    )
    for note in notes:
        say(f"note: {note}")
    about = {"name": images.name, "train": len(images.train_labels),
             "test": len(images.test_labels), "source": images.source}  # fmt: skip
    found = Comparison(folder, about, entries, notes)
    _train(runs, chosen, images.root, found)
    _measure([run for run in runs if run.done], chosen.swap, images.root, chosen.machine, found)
    for entry in entries:
        own = [run for run in runs if run.entry is entry]
        ready = [run for run in own if run.done and measured(run, chosen.swap) is not None]
        found.left += len(own) - len(ready)
        if ready:
            found.runs[entry.name] = [figures(run, chosen.swap) for run in ready]
        if len(ready) == len(own):
            found.rows[entry.name] = summarise(found.runs[entry.name])
    return found


def _train(runs: Sequence[Run], chosen: Compare, root: Path | None, found: Comparison) -> None:
    whole = sum(run.settings.training.epochs for run in runs)
    tasks = [
        Task(run.name, train, (run, root, chosen.machine), run.log) for run in runs if not run.done
    ]
    if tasks:
        with counting("epochs", whole) as advance:
            look = _looking(lambda: sum(map(epochs, runs)), advance)
            found.faults |= work(tasks, chosen.jobs, look, chosen.minutes)


def _measure(
    runs: Sequence[Run],
    swaps: Sequence[str] | None,
    root: Path | None,
    machine: Machine,
    found: Comparison,
) -> None:
    def ready() -> int:
        return sum(measured(run, swaps) is not None for run in runs)

    tasks = [
        Task(run.name, measure, (run, root, swaps, machine), run.log)
        for run in runs
        if measured(run, swaps) is None
    ]
    if tasks:
        with counting("runs measured", len(runs)) as advance:
            found.faults |= work(tasks, 1, _looking(ready, advance))


def _looking(done: Callable[[], int], advance: Callable[[int], None]) -> Callable[[], None]:
    """Return a function that tells of what was done since it was called last."""
    told = 0

    def look() -> None:
        nonlocal told
        now = done()
        advance(now - told)
        told = now

    return look


COLUMNS = (
    "model", "accuracy", "params", "evals", "step", "s", "MiB", "conv.", "resid.", "swapped",
)  # fmt: skip


def show(found: Comparison) -> None:
    """Print the table of a comparison, which 80 columns hold, and what went wrong."""
    table = Table(
        title=f"{found.folder}, {found.images['test']:,} test images",
        caption="accuracy in %, and the range of the seeds, else the 95% band of the images; "
        "step: evaluations + products back of a training step, its seconds and MiB; "
        "swapped: under the solver that costs most",
        padding=0,
        box=SIMPLE,
        show_edge=False,
    )
    for k, column in enumerate(COLUMNS):
        justify: Literal["left", "right"] = "right" if k else "left"
        table.add_column(column, justify=justify, no_wrap=k > 0, overflow="fold")
    for name, row in found.rows.items():
        model, accuracy, _, evals, there, back, *rest, swapped = cells(name, row)
        seeds, images = bands(row)
        accuracy += "\n" + (images if seeds == "-" else seeds).replace(" to ", "-")
        params = f"{row['parameters'] / 1000:,.1f}k"
        step = f"{there}+{back}"
        table.add_row(model, accuracy, params, evals, step, *rest, swapped.replace(" ", "\n"))
    if found.rows:
        console.print(table)
    for name, fault in found.faults.items():
        warn(f"{name}: {fault}")
