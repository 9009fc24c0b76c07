"""Solvers and gradients as JSON, and back: nothing but the library's own frozen dataclasses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import solvers
import solvers.delta
import solvers.gradient
import solvers.homotopy

NAME = "is"
"""The key of an object's public name, beside those of its settings."""


def described(value: Any) -> Any:
    """Return a solver, a gradient or a setting of one as JSON: {"is": "Anderson", "rtol": ...}.

    Raises:
        ValueError: something in it is none of this library, such as a function; says what.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {NAME: "float", "value": str(value)}
    if isinstance(value, tuple | list):
        return [described(each) for each in value]
    name = next((name for name, known in _public() if known is value or known is type(value)), None)
    if name is None or isinstance(value, type):
        kind = value.__name__ if isinstance(value, type) else type(value).__name__
        raise ValueError(
            f"{kind} is no solver, gradient or setting of this library, so a file cannot name it: "
            "save the model with one (with_solver(Anderson())), and put yours in after loading."
        )
    if not isinstance(dict(_public())[name], type):
        return {NAME: name}  # a constant, such as DOPRI5
    settings = {f.name: described(getattr(value, f.name)) for f in fields(value) if f.init}
    return {NAME: name, **settings}


def made(value: Any) -> Any:
    """Return what `described` was given.

    Raises:
        ValueError: it names nothing of this library, or settings that it does not have.
    """
    if isinstance(value, list):
        return tuple(made(each) for each in value)
    if not isinstance(value, Mapping):
        return value
    name, settings = value.get(NAME), {k: made(v) for k, v in value.items() if k != NAME}
    if name == "float":
        return float(settings["value"])
    known = dict(_public()).get(str(name))
    if known is None:
        raise ValueError(f"{name} is no solver, gradient or setting of this version")
    try:
        return known(**settings) if isinstance(known, type) else known
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def _public() -> Iterator[tuple[str, Any]]:
    """Yield the public frozen dataclasses and constants of `solvers` by their names."""
    for package in (solvers, solvers.delta, solvers.gradient, solvers.homotopy):
        for name in package.__all__:
            found = getattr(package, name)
            if is_dataclass(found):  # a class or an instance
                yield name, found
