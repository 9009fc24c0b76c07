"""Inject faults drawn by a seed, and judge what comes of each."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from . import kinds
from .stores import Store, stores

SECONDS = 10
"""Of the processor, for one reading: a file must not take longer, whatever it says."""
MEMORY = 2**30
"""Bytes that the process may grow by in one reading."""
RUNS = ("pickle.find_class", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn",
        "os.startfile", "socket.connect", "shutil.rmtree")  # fmt: skip
ADVICE = re.compile(
    r"\b(use|give|delete|remove|choose|fetch|train|certify|name|read|unpack|pack|wait|make room|"
    r"measure|scale|store|install|take it out|go on|resume|change the|import|holds no)\b",
    re.IGNORECASE,
)
OK = ("refused in one line", "as before", "made anew", "other, and open", "old or new")
watching: list[str] | None = None


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Note what runs something; a hook cannot be taken away again."""
    if watching is not None and event in RUNS:
        watching.append(event)


sys.addaudithook(hook)


class Slow(BaseException):
    """A reading took too long; not an `Exception`, so that nothing catches it."""


@contextmanager
def watched() -> Iterator[list[str]]:
    """Note what is executed meanwhile, and end what takes too long."""
    global watching

    def late(*signal: Any) -> None:
        raise Slow

    before = signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    watching = seen = []
    try:
        yield seen
    finally:
        watching = None
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@dataclass(frozen=True)
class Fault:
    """One fault and what came of it.

    Arguments:
        kind: of it.
        store: what it befell.
        about: where.
        outcome: one of `OK`, or what is wrong.
    """

    kind: str
    store: str
    about: str
    outcome: str

    @property
    def broken(self) -> bool:
        return self.outcome not in OK


def told(error: Exception, folder: Path) -> str:
    """Judge the message of an error that a user sees."""
    text = str(error)
    if "\n" in text.strip() and "Looked for:\n" not in text:  # a list of places is a list
        return f"broken: several lines: {text!r}"
    if str(folder) not in text:
        return f"broken: names no file: {type(error).__name__}: {text[:150]}"
    if not ADVICE.search(text.replace(str(folder), "")):
        return f"broken: says not what to do: {text[:200]}"
    return "refused in one line"


def reading(store: Store, folder: Path, wanted: Sequence[Any], sealed: bool) -> str:
    """Read a store, and judge what is believed; `wanted` lists what may be."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(), watched() as seen:
        warnings.simplefilter("ignore")
        try:
            found = store.read(folder)
        except (ValueError, OSError) as error:
            outcome = told(error, folder)
        except Slow:
            outcome = f"broken: more than {SECONDS} s"
        except Exception as error:
            outcome = f"broken: {type(error).__name__}: {str(error)[:150]}"
        else:
            if found is None:
                outcome = "made anew"
            elif any(store.agrees(found, each) for each in wanted):
                outcome = "as before"
            else:
                outcome = "broken: believed" if sealed else "other, and open"
    if seen or (folder / kinds.HARM).exists():
        outcome = f"broken: executed {seen}"
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak)
    return f"broken: took {grown / 2**20:,.0f} MiB" if grown > MEMORY else outcome


def spoil(store: Store, kind: str, folder: Path, random: Random) -> tuple[str, str]:
    """Damage a file, and read."""
    wanted = store.read(folder)
    name = random.choice(store.files)
    file = folder / name
    sealed = store.sealed
    if kind == "another file in its place":
        others = [each for each in folder.parent.glob("*/**/*") if each.is_file()]
        chosen = random.choice([each for each in others if each != file] or [file])
        name = f"{name}: {chosen.name}"
        sealed = sealed and chosen.name != file.name  # of another run, and whole
        file.write_bytes(chosen.read_bytes())
    elif kind == "a folder in its place":
        file.unlink()
        file.mkdir()
    elif kind == "gone":
        file.unlink()
        sealed = False  # nothing that is there is altered
    elif kind == "hostile, and well-formed":
        name, sealed = kinds.hostile(store, folder, random) or name, False
    elif kind == "a zip file that attacks":
        name, sealed = kinds.hostile_zip(file, random, folder), False
    else:
        file.write_bytes(kinds.DAMAGE[kind](file.read_bytes(), random, folder))
    outcome = reading(store, folder, [wanted], sealed)
    return name, outcome


def interrupt(store: Store, kind: str, folder: Path, random: Random) -> tuple[str, str]:
    """Break a write: the old or the new is there, and the write can be done again."""
    assert store.change is not None
    old = store.read(folder)
    done = folder.with_name(folder.name + "-done")
    shutil.copytree(folder, done)
    store.change(done)
    new = store.read(done)
    about = ""
    if kind == "killed with 9":
        about = kinds.killed(store.change, folder, random)
    elif kind == "two writers":
        change = store.change
        pids = [writer(change, folder) for _ in range(2)]
        outcome = "as before"
        for _ in range(5):
            outcome = (
                outcome if outcome != "as before" else reading(store, folder, [old, new], True)
            )
        codes = [os.waitpid(pid, 0)[1] for pid in pids]
        if outcome != "as before" or any(codes):
            return "", outcome if outcome != "as before" else f"broken: a writer ended with {codes}"
    else:
        try:
            about = kinds.full(store.change, folder, random)
        except (ValueError, OSError) as error:
            if (outcome := told(error, folder)) != "refused in one line":
                return about, outcome
    outcome = reading(store, folder, [old, new], True)
    if outcome == "as before":
        store.change(folder)
        if kind != "two writers" and not store.agrees(store.read(folder), new):
            return about, "broken: done again it is another"
        left = [each.name for each in folder.rglob("*.tmp")]
        return about, f"broken: leaves {left}" if left else "old or new"
    return about, outcome.replace("refused in one line", "broken: lost")


def writer(change: Callable[[Path], None], folder: Path) -> int:
    """Write in a process of its own; two of them write at once."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            for _ in range(5):
                change(folder)
            code = 0
        finally:
            os._exit(code)
    return child


READS = (*kinds.DAMAGE, "another file in its place", "a folder in its place", "gone",
         "hostile, and well-formed", "a zip file that attacks")  # fmt: skip
WRITES = ("killed with 9", "disk full or broken", "two writers")
ALONE = ("run", "comparison")
"""Stores whose writers are safe beside one another; the others have a lock."""


def inject(count: int, seed: int, work: Path) -> list[Fault]:
    """Inject so many faults, the kinds in turn and the rest by chance."""
    every = stores(work / "template")
    each = list(every.values())
    found = []
    for k in range(count):
        random = Random(f"{seed} {k}")
        kind = (*READS, *WRITES)[k % (len(READS) + len(WRITES))]
        if kind == "a zip file that attacks":
            store = every["zip file"]
        elif kind == "two writers":
            store = every[random.choice(ALONE)]
        elif kind in WRITES:
            store = random.choice([store for store in each if store.change is not None])
        elif kind == "hostile, and well-formed":
            store = random.choice(
                [store for store in each if store.sealed and store.name[0] != "i"]
            )
        else:
            store = random.choice(each)
        folder = work / f"fault-{k}" / "here"
        folder.mkdir(parents=True)
        store.make(folder)
        if kind == "another file in its place":
            other = random.choice(each)
            (folder.parent / "other").mkdir()
            other.make(folder.parent / "other")
        about, outcome = (spoil if kind in READS else interrupt)(store, kind, folder, random)
        found.append(Fault(kind, store.name, about, outcome))
        if not found[-1].broken:
            shutil.rmtree(folder.parent)
    return found


def by_kind(found: Sequence[Fault]) -> dict[str, dict[str, int]]:
    """Count what came of the faults of each kind, and of all."""
    counts = Counter((fault.kind, "broken" if fault.broken else fault.outcome) for fault in found)
    heads = (*OK, "broken")
    rows = {kind: {head: counts[kind, head] for head in heads} for kind in (*READS, *WRITES)}
    return rows | {"all": {head: sum(row[head] for row in rows.values()) for head in heads}}
