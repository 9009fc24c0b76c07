"""Say in options what the library says in arguments."""

from __future__ import annotations

import re

OBJECTS = {"start": "--warm-start", "policy": "--policy", "solver": "--solver"}
OTHER = {"Cold": "none", "folder": "--out"}
NAMES = "n|audit|steps|step_size|contraction|folder"


def in_options(message: str) -> str:
    """Return a message of the library with the command line's words for its arguments.

    >>> in_options("choose policy=Audited(), start=Along(0.8), or n=12 or more.")
    'choose --policy audited, --warm-start along:0.8, or --n 12 or more.'
    """
    message = re.sub(r'\b(start|policy|solver)=(\w+)\("?([\w.]*)"?\)', _object, message)
    message = re.sub(r"\bpolicy ([A-Z]\w+)\b", lambda found: found[0].lower(), message)
    message = re.sub(r"\b(resume|overwrite)=True\b", r"--\1", message)
    return re.sub(rf"\b({NAMES})=(\w?)", _value, message)


def _object(found: re.Match[str]) -> str:
    option, name, setting = found.groups()
    said = OTHER.get(name, name.lower())
    if setting:  # a flow is named by its method
        said = setting if option == "solver" else f"{said}:{setting}"
    return f"{OBJECTS[option]} {said}"


def _value(found: re.Match[str]) -> str:
    name, begun = found.groups()
    option = OTHER.get(name, f"--{name.replace('_', '-')}")
    return f"{option} {begun}" if begun else option
