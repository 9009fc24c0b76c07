"""The command line: train, evaluate, predict, plot and info."""

from __future__ import annotations

import typer

from . import evaluate, info, plot, predict, train
from .spec import load_model

__all__ = ["app", "load_model"]

app = typer.Typer(
    name="homotopy-deq",
    help="Implicit-layer image models: one equation, many paths to its answer.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)
for module in (train, evaluate, predict, plot, info):
    app.command(module.__name__.rsplit(".", 1)[-1])(module.command)
