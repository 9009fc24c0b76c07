"""Say in options what the library says in arguments."""

from __future__ import annotations

import re

from ..settings.declare import leaves
from . import COMMANDS
from .command import option

OBJECTS = {"start": "--warm-start", "policy": "--policy", "solver": "--solver"}
OTHER = {"Cold": "none", "folder": "--out"}
NAMES = "n|audit|steps|step_size|contraction|folder"
SETTINGS = {leaf.name: leaf.plain in (int, float)
            for kind, _ in COMMANDS.values() for leaf in leaves(kind)}  # fmt: skip
LONG = "|".join(name for name in SETTINGS if "_" in name)
NUMBERS = "|".join(name for name, number in SETTINGS.items() if number)


def in_options(message: str) -> str:
    """Return a message of the library with the command line's words for its arguments.

    >>> in_options("choose policy=Audited(), start=Along(0.8), or n=12 or more.")
    'choose --policy audited, --warm-start along:0.8, or --n 12 or more.'
    """
    message = re.sub(r'\b(start|policy|solver)=(\w+)\("?([\w.]*)"?\)', _object, message)
    message = re.sub(r"\bpolicy ([A-Z]\w+)\b", lambda found: found[0].lower(), message)
    message = re.sub(r"\b(resume|overwrite)=True\b", r"--\1", message)
    message = re.sub(rf"\b({NAMES})=(\w?)", _value, message)
    named = rf"(?<![-\w.])(?:(?:{LONG})(?![-\w=])|(?:{NUMBERS})(?= must be ))"
    return re.sub(named, lambda found: option(found[0]), message)


def _object(found: re.Match[str]) -> str:
    what, name, setting = found.groups()
    said = OTHER.get(name, name.lower())
    if setting:  # a flow is named by its method
        said = setting if what == "solver" else f"{said}:{setting}"
    return f"{OBJECTS[what]} {said}"


def _value(found: re.Match[str]) -> str:
    name, begun = found.groups()
    said = OTHER.get(name, option(name))
    return f"{said} {begun}" if begun else said
