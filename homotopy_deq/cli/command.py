"""Make a command of the command line from a dataclass of its options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING
from importlib import import_module
from typing import Annotated, Any, Optional

import typer

from ..settings import RECIPES
from ..settings.declare import Leaf, assemble, leaves

RECIPE = "the data set's recipe (homotopy-deq info)"
OF_RECIPES = {"residual_penalty", "pool", *(name for each in RECIPES.values() for name in each)}


def command(kind: type, module: str) -> Callable[..., None]:
    """Return a function that typer reads as a command.

    Its arguments are the settings of a dataclass, its help text is the docstring, and what it does
    is the function `command` of a module, which is imported when it is called: to show a help text
    needs nothing of what the command needs.

    Arguments:
        kind: the dataclass; may hold others.
        module: below `homotopy_deq.cli`.
    """

    def run(**given: Any) -> None:
        from .report import failing

        with failing():
            chosen: Any = assemble(kind, given)
            import_module(f"{__package__}.{module}").command(chosen)

    # One line a paragraph, which the terminal breaks where it ends.
    run.__doc__ = re.sub(r"(?<=\S)\n(?=\S)", " ", inspect.cleandoc(kind.__doc__ or ""))
    parameters = [_parameter(leaf) for leaf in leaves(kind)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def option(name: str) -> str:
    """Return the option of a setting; one whose name is a word of Python ends in "_"."""
    return f"--{name.rstrip('_').replace('_', '-')}"


def _parameter(leaf: Leaf) -> inspect.Parameter:
    about, kind, default = leaf.about, leaf.plain, leaf.default
    help = about["help"]
    if about["argument"]:
        shown: Any = typer.Argument(metavar=about["metavar"], help=help)
    else:
        if default not in (None, MISSING):
            help = help.split(" Default: ")[0]  # which says what None stands for
        if leaf.given:
            said = "Default:" in help or (
                default in (None, MISSING) and leaf.name not in OF_RECIPES
            )
            shown = f"{default:g}" if isinstance(default, float) else default
            varies = leaf.name in OF_RECIPES and leaf.place[0] == "settings"
            known = RECIPE if varies else shown
            help += "" if said else f" Default: {known}."
            default = None
        flag = option(leaf.name)
        if kind is bool:
            flag = f"{flag}/--no-{flag[2:]}" if default is None else flag
        flags = [flag, *([option(about["also"])] if about["also"] else [])]
        shown = typer.Option(
            *flags,
            metavar=about["metavar"],
            help=help,
            rich_help_panel=about["panel"],
            show_default=default is not None,
        )
    value: Any = Optional[kind] if default is None else kind  # noqa: UP045
    annotation = Annotated[value, shown]
    missing = inspect.Parameter.empty if default is MISSING else default
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(leaf.name, keyword, default=missing, annotation=annotation)
