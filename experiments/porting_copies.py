"""Copy an example of torchdeq's, change the lines that a port changes, and import either copy."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

IMPORT = re.compile(r"^(\s*)from torchdeq[\w.]* import ", re.MULTILINE)
PORTED = r"\1from homotopy_deq.compat import "


@dataclass(frozen=True)
class Change:
    """A line of a file in the place of another, in all versions alike, and why."""

    file: str
    before: str
    after: str
    why: str


def changed(before: Path, after: Path, files: Sequence[str]) -> list[dict[str, Any]]:
    """List the lines of some files in which two folders differ: file, number, before, after."""
    found = []
    for file in files:
        old, new = ((folder / file).read_text().splitlines() for folder in (before, after))
        for kind, i, j, k, m in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if kind != "equal":
                lines = {"before": old[i:j], "after": new[k:m]}
                found.append({"file": file, "line": i + 1, **lines})
    return found


def count(changes: Sequence[Mapping[str, Any]]) -> int:
    """Return how many lines changed."""
    return sum(max(len(each["before"]), len(each["after"])) for each in changes)


def apply(folder: Path, changes: Sequence[Change]) -> None:
    """Make changes in a folder, each of which must find its line."""
    for change in changes:
        text = (folder / change.file).read_text()
        if change.before not in text:
            raise ValueError(f"{change.file} has no {change.before!r}: another version of it?")
        (folder / change.file).write_text(text.replace(change.before, change.after, 1))


def copies(
    source: Path, work: Path, files: Sequence[str], needed: Sequence[Change], more: Sequence[Change]
) -> tuple[Path, Path, dict[str, Any]]:
    """Copy a folder twice, as it runs today and ported, and return the lines changed.

    Arguments:
        source: the folder.
        work: where the copies are made.
        files: in which the lines that the port changes are listed.
        needed: what has to change before it runs today.
        more: what the port changes beside imports.
    """
    today, port = work / "today", work / "ported"
    shutil.copytree(source, today)
    apply(today, needed)
    shutil.copytree(today, port)
    for path in port.rglob("*.py"):
        path.write_text(IMPORT.sub(PORTED, path.read_text()))
    apply(port, more)
    changes = {
        "today": changed(source, today, sorted({change.file for change in needed})),
        "port": changed(today, port, files),
    }
    return today, port, changes


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let a folder's modules be imported, and forget them afterwards: another copy follows."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            module = sys.modules[name]
            places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", [])]
            if any(place.startswith(str(folder)) for place in places):
                del sys.modules[name]
