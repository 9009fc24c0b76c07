"""Work in processes of their own, which end when this one does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import typer

from ...training.interrupt import Interrupt
from ..report import failing

POLL = 0.5
"""Seconds between two looks at how far the work is."""


@dataclass(frozen=True)
class Task:
    """What a process does.

    Arguments:
        name: of it.
        target: a function at the top of a module; SIGINT has it write down what it has, and end.
        args: of that.
        log: a file for all that it prints.
    """

    name: str
    target: Callable[..., None]
    args: tuple[Any, ...]
    log: Path


def work(
    tasks: Sequence[Task], jobs: int, look: Callable[[], None], minutes: float | None = None
) -> dict[str, str]:
    """Do tasks, so many side by side; return what went wrong, by the tasks' names.

    Arguments:
        tasks: begun in this order.
        jobs: how many at a time.
        look: called now and then, to tell how far they are.
        minutes: after these, those at work are asked to stop and no other is begun.

    Raises:
        KeyboardInterrupt: a signal asked to stop, and they have.
    """
    context = multiprocessing.get_context("spawn")
    waiting, active, wrong = list(tasks), dict[Any, tuple[Task, int]](), dict[str, str]()
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    stopped = False
    with Interrupt() as interrupt:
        while active or (waiting and not stopped):
            while waiting and not stopped and len(active) < jobs:
                task = waiting.pop(0)
                process = context.Process(target=_child, args=(task,), name=task.name)
                told = task.log.stat().st_size if task.log.exists() else 0  # by earlier calls
                process.start()
                active[process] = task, told
            wait([process.sentinel for process in active], POLL)
            look()
            for process in [each for each in active if not each.is_alive()]:
                task, told = active.pop(process)
                if process.exitcode and not stopped:  # asked to stop, it may end anyhow
                    wrong[task.name] = _fault(task.log, told, process.exitcode)
            if not stopped and (interrupt.asked or time.monotonic() >= end):
                stopped = True
                for process in active:
                    os.kill(process.pid, signal.SIGINT)
        asked = interrupt.asked
    if asked:
        raise KeyboardInterrupt
    return wrong


def _child(task: Task) -> None:
    """Do a task, with what it prints in its log; stop with the process that wants it."""
    os.setpgrp()  # Ctrl-C is for the parent, which asks once; asked twice, a run stops at once
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a", encoding="utf-8") as log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
    threading.Thread(target=_follow, daemon=True).start()
    try:
        with failing():
            task.target(*task.args)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGINT)


def _fault(log: Path, since: int, code: int | None) -> str:
    """Return the last error that a log tells of, after so many bytes."""
    text = log.read_bytes()[since:] if log.exists() else b""
    lines = text.decode(errors="replace").splitlines()
    told = [k for k, line in enumerate(lines) if line.startswith("Error:")]
    if told:
        return " ".join(lines[told[-1] :]).removeprefix("Error: ")
    return f"its process ended with {code}: see {log}."
