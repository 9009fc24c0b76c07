"""The command line: train, evaluate, predict, plot and info; certify and what goes with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from .. import __version__
from . import (
    attack,
    certified_report,
    certify,
    decide,
    evaluate,
    info,
    plot,
    plot_certified,
    predict,
    smooth_predict,
    train,
)
from .spec import load_model

__all__ = ["app", "load_model"]

app = typer.Typer(
    name="homotopy-deq",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(f"homotopy-deq {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Implicit-layer image models: one equation, many paths to its answer."""


COMMANDS: Mapping[str, Callable[..., None]] = {
    "train": train.command,
    "evaluate": evaluate.command,
    "predict": predict.command,
    "plot": plot.command,
    "certify": certify.command,
    "decide": decide.command,
    "smooth-predict": smooth_predict.command,
    "attack": attack.command,
    "report": certified_report.command,
    "plot-certified": plot_certified.command,
    "info": info.command,
}
for name, command in COMMANDS.items():
    app.command(name)(command)
