"""What commands print, and how they fail."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..training import Diverged, Evaluation, Interrupted

console = Console()
errors = Console(stderr=True)

P = ParamSpec("P")
R = TypeVar("R")


def failing(command: Callable[P, R]) -> Callable[P, R]:
    """Print what a user can mend as one message, without a traceback, and exit with 2.

    An interrupted training exits with 130, as shells expect of Ctrl-C, and a diverged one with 1.
    """

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (ValueError, OSError) as error:
            fail(str(error), 2)
        except Interrupted as stop:
            fail(f"{stop} To go on, give the same command with --resume.", 130)
        except Diverged as error:
            fail(str(error), 1)
        raise AssertionError("unreachable")

    return wrapped


def fail(message: str, code: int) -> None:
    """Print an error and leave."""
    errors.print(f"[red]Error:[/] {escape(message)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


def warn(message: str) -> None:
    """Print a warning."""
    errors.print(f"[yellow]Warning:[/] {escape(message)}", highlight=False, soft_wrap=True)


def evaluation_table(title: str, rows: Mapping[str, Evaluation]) -> Table:
    """Return the table of the same weights under several forward passes.

    The residuals are relative: the median over the images, and the worst.
    """
    table = Table(title=title)
    table.add_column("forward pass", no_wrap=True)
    for column in ("accuracy", "NFE", "converged", "residual", "worst", "s"):
        table.add_column(column, justify="right")
    for name, found in rows.items():
        table.add_row(
            name,
            f"{found.accuracy:.2%}",
            f"{found.nfe:.1f}",
            f"{found.converged:.1%}",
            residual(found.residual_median),
            residual(found.residual_worst),
            f"{found.seconds:.1f}",
        )
    return table


def residual(value: float) -> str:
    """Write a relative residual, or a dash where there is no equilibrium."""
    return "-" if value != value else f"{value:.1e}"
