"""Runs that an experiment keeps between its calls: which commit made them, and in what time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from experiments.results import commit


class OtherCommit(SystemExit):
    """What is kept was made by other code than runs now."""


@dataclass(frozen=True)
class Made:
    """How runs were made.

    Arguments:
        commit: of the code.
        started: the first call, in UTC.
        seconds: of all calls; of a killed one up to the last that were written.
        killed: calls that did not end.
    """

    commit: str
    started: str
    seconds: float = 0.0
    killed: int = 0


def made(folders: Sequence[Path]) -> Made:
    """Return how the runs of some folders were made, together.

    Raises:
        OtherCommit: one is of another commit, or of nobody knows which.
    """
    found = [_note(folder) for folder in folders]
    return Made(
        commit(),
        min(each.started for each in found),
        sum(each.seconds for each in found),
        sum(each.killed for each in found),
    )


@contextmanager
def making(
    folder: Path, clock: Callable[[], float] = time.perf_counter, every: float = 10.0
) -> Iterator[None]:
    """Time the call that makes a folder, or goes on with it.

    Its seconds are written every so many: of a killed call no more than these are lost.

    Raises:
        OtherCommit: it was begun by another commit.
    """
    file = _file(folder)
    if folder.exists():
        before = _note(folder)
    else:
        before = Made(commit(), datetime.now(timezone.utc).isoformat(timespec="seconds"))
    file.parent.mkdir(parents=True, exist_ok=True)
    since, ended = clock(), threading.Event()

    def note(spent: float, killed: int) -> None:
        now = replace(before, seconds=before.seconds + spent, killed=before.killed + killed)
        new = file.with_suffix(".new")
        new.write_text(json.dumps(asdict(now)))
        new.replace(file)

    def keep() -> None:
        while not ended.wait(every):
            note(clock() - since, 1)

    note(0.0, 1)
    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:  # Ctrl-C and errors end a call, too
        ended.set()
        keeper.join()
        note(clock() - since, 0)


def _note(folder: Path) -> Made:
    file = _file(folder)
    found = Made(**json.loads(file.read_text())) if file.exists() else None
    if found is None or found.commit != commit():
        whose = "an unknown commit" if found is None else f"commit {found.commit}"
        raise OtherCommit(
            f"{folder} was made by {whose}, and this is {commit()}: its figures and seconds would "
            "be published as this one's. Delete it, or choose another --work."
        )
    return found


def _file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.made.json")
