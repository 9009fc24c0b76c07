"""What watches a run: files for plots, TensorBoard, and a progress bar."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..sealed import misfit, parse
from .checkpoint import replace_file
from .folder import writing
from .tally import Tally

if TYPE_CHECKING:
    from rich.console import Console
    from torch.utils.tensorboard import SummaryWriter

HEARTBEAT = 30.0  # seconds
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a run stands: `batch` batches of epoch `epoch` (from 0) are done.

    Arguments:
        epoch: from 0.
        batch: batches of it that are done.
        batches: batches an epoch.
        epochs: epochs in all.
    """

    epoch: int
    batch: int
    batches: int
    epochs: int

    @property
    def step(self) -> int:
        """Optimiser steps done since the start of the run."""
        return self.epoch * self.batches + self.batch


class Observer(Protocol):
    """Be told of what happens in a run. Nothing that an observer does changes the run.

    A class that names this one need not have all four.
    """

    def begin(self, place: Place) -> None:
        """A run starts, or goes on, at this place."""
        return

    def batch(self, place: Place, tally: Tally, rate: float) -> None:
        """A batch is done; `tally` sums the epoch so far."""
        return

    def epoch(self, place: Place, record: Record) -> None:
        """An epoch and its validation are done."""
        return

    def end(self) -> None:
        """The run ends, for whatever reason."""
        return


class MetricsFile(Observer):
    """Write one JSON line an epoch, with the seconds that it took, for plots and spreadsheets.

    A resumed run first takes out the lines of epochs that it will do again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._since = 0.0

    def begin(self, place: Place) -> None:
        records = [r for r in read_metrics(self.path) if r["epoch"] <= place.epoch]
        replace_file(self.path, "".join(json.dumps(r) + "\n" for r in records).encode())
        self._since = time.monotonic()

    def epoch(self, place: Place, record: Record) -> None:
        now = time.monotonic()
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**record, "seconds": round(now - self._since, 3)}) + "\n")
        self._since = now


def read_metrics(path: Path) -> Sequence[Record]:
    """Read the records of metrics.jsonl; a last line that a kill cut short is left out.

    Arguments:
        path: of the file; without one there are no records.

    Raises:
        ValueError: a line that was written whole is no record; says which.
    """
    if not path.is_file():
        return []
    *lines, _ = path.read_bytes().split(b"\n")
    return [_record(line, f"{path}, line {k}") for k, line in enumerate(lines, 1)]


def _record(line: bytes, where: str) -> Record:
    try:
        record = parse(line)
        if wrong := misfit({"epoch": int, "seconds": float}, record):
            raise ValueError(wrong)
    except ValueError as error:
        raise ValueError(
            f"{where} was altered ({error}): delete the line. The checkpoint has all figures but "
            "the seconds."
        ) from error
    return cast("Record", record)


class TensorBoard(Observer):
    """Write scalars every few steps and each epoch, for `tensorboard --logdir FOLDER`."""

    def __init__(self, folder: Path, every: int = 10) -> None:
        self.folder = folder
        self.every = every
        self._writer: SummaryWriter | None = None

    def begin(self, place: Place) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self.folder), purge_step=place.step or None)

    def batch(self, place: Place, tally: Tally, rate: float) -> None:
        if place.step % self.every == 0:
            self._scalars("train", {**tally.means(), "lr": rate}, place.step)

    def epoch(self, place: Place, record: Record) -> None:
        for part, values in record.items():
            if isinstance(values, Mapping) and part != "train":  # told batch by batch
                self._scalars(part, values, place.step)

    def end(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, part: str, values: Mapping[str, float | None], step: int) -> None:
        assert self._writer is not None
        for name, value in values.items():
            if value is None:  # a figure that this model has not
                continue
            self._writer.add_scalar(f"{part}/{name}", value, step)


class Bar(Observer):
    """Show a progress bar for the epoch, and leave one line for each epoch that is done.

    Arguments:
        console: where to. Where it is no terminal, a line now and then stands for the bar.
        success: what is claimed of a sample that its solver did not fail on.
        every: seconds between two such lines.
    """

    def __init__(
        self, console: Console, success: str = "converged", every: float = HEARTBEAT
    ) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console
        self.success = success
        self.every = every
        self._told = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", figures="")

    def begin(self, place: Place) -> None:
        if place.epoch == place.epochs:
            self._print(f"all {place.epochs} epochs are done")
        elif place.step:
            self._print(
                f"going on in epoch {place.epoch + 1}/{place.epochs}, "
                f"after batch {place.batch}/{place.batches}"
            )
        self._bar.start()

    def batch(self, place: Place, tally: Tally, rate: float) -> None:
        epoch, now = f"epoch {place.epoch + 1}/{place.epochs}", time.monotonic()
        told = figures(tally.means(), self.success)
        self._bar.update(
            self._task,
            description=epoch,
            completed=place.batch,
            total=place.batches,
            figures=told,
        )
        if not self.console.is_terminal and now - self._told >= self.every:
            self._told = now
            self._print(f"{epoch}  batch {place.batch}/{place.batches}  train {told}")

    def epoch(self, place: Place, record: Record) -> None:
        train, validation = record["train"], record["validation"]
        self._told = time.monotonic()
        self._print(
            f"epoch {record['epoch']}/{place.epochs}  train {figures(train, self.success)}  "
            f"validation {figures(validation, self.success)}"
        )
        if start := record.get("start"):
            self._print(
                f"  from its start {start['nfe']:.1f} evals, from zero {start['nfe_zero']:.1f} "
                f"(its loss {start['loss']:.3g})"
            )
        for part, means in (("train", train), ("validation", validation)):
            if means["converged"] < 1:
                failed = "not converge" if self.success == "converged" else "not reach t1"
                self._print(
                    f"[yellow]warning:[/] {1 - means['converged']:.2%} of the {part} samples did "
                    f"{failed}: raise --max-steps, loosen --rtol, or choose another --solver."
                )

    def end(self) -> None:
        self._bar.stop()

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)


def figures(means: Mapping[str, float], success: str = "converged") -> str:
    """Write loss, accuracy, evaluations and the share of samples that succeeded in a line."""
    return (
        f"loss {means['loss']:.4f} acc {means['accuracy']:.2%} evals {means['nfe']:.1f} "
        f"{success} {means['converged']:.1%}"
    )
