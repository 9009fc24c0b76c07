"""Runs that an experiment keeps between its calls: which commit made them, and in what time."""

from __future__ import annotations

import json
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
        seconds: of all calls that ended.
        killed: calls that did not end, whose seconds are not known.
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
def making(folder: Path, clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
    """Time the call that makes a folder, or goes on with it.

    Raises:
        OtherCommit: it was begun by another commit.
    """
    file = _file(folder)
    if folder.exists():
        before = _note(folder)
    else:
        before = Made(commit(), datetime.now(timezone.utc).isoformat(timespec="seconds"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(replace(before, killed=before.killed + 1))))
    since = clock()
    yield
    file.write_text(json.dumps(asdict(replace(before, seconds=before.seconds + clock() - since))))


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
