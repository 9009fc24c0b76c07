"""What commands print, and how they fail."""

from __future__ import annotations

import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from ..training import Diverged, Evaluation, Interrupted
from ..training.observers import HEARTBEAT
from .flags import in_options

console = Console()
errors = Console(stderr=True)


@contextmanager
def failing() -> Iterator[None]:
    """Print what a user can mend as one message, without a traceback, and exit with 2.

    What Ctrl-C stopped exits with 130, as shells expect, and a diverged training with 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that has no sigma still gets the rest
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _told  # of lines in our own files, which mean nothing here
            yield
    except (ValueError, OSError) as error:
        fail(str(error), 2)
    except Interrupted as stop:
        _say(f"{stop} To go on, give the same command with --resume.")
        raise typer.Exit(130) from None
    except KeyboardInterrupt:
        _say("Stopped.")
        raise typer.Exit(130) from None
    except Diverged as error:
        fail(str(error), 1)


def fail(message: str, code: int) -> NoReturn:
    """Print an error and leave."""
    _say(message, "[red]Error:[/] ")
    raise typer.Exit(code)


def warn(message: str) -> None:
    """Print a warning."""
    _say(message, "[yellow]Warning:[/] ")


def _told(message: Warning | str, *place: Any, **more: Any) -> None:
    warn(str(message))


def _say(message: str, prefix: str = "") -> None:
    errors.print(f"{prefix}{escape(in_options(message))}", highlight=False, soft_wrap=True)


@contextmanager
def counting(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function to be told of each part that is done: a bar on a terminal, else lines."""
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task, told, done = progress.add_task(what, total=total), time.monotonic(), 0

        def advance(count: int) -> None:
            nonlocal told, done
            done += count
            progress.advance(task, count)
            now = time.monotonic()
            if not console.is_terminal and now - told >= HEARTBEAT:
                told = now
                _say(f"{what}: {done:,} of {total:,}")

        yield advance


def evaluation_table(
    title: str, rows: Mapping[str, Evaluation], success: Mapping[str, str]
) -> Table:
    """Return the table of the same weights under several forward passes.

    The residuals are relative: the median over the images, and the worst.

    Arguments:
        title: of the table.
        rows: the figures of each pass.
        success: what is claimed of the samples that each did not fail on.
    """
    table = Table(title=title, padding=(0, 1, 0, 0))  # 80 columns hold it
    table.add_column("forward pass", no_wrap=True)
    for column in ("accuracy", "evals", "success", "residual", "worst", "s"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, found in rows.items():
        table.add_row(
            name,
            f"{found.accuracy:.2%}",
            f"{found.nfe:.1f}",
            f"{found.converged:.1%} {success[name]}",
            residual(found.residual_median),
            residual(found.residual_worst),
            f"{found.seconds:.1f}",
        )
    return table


def residual(value: float) -> str:
    """Write a relative residual, or a dash where there is no equilibrium."""
    return "-" if value != value else f"{value:.1e}"
