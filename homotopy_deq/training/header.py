"""What the JSON of a run must hold, checked before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, get_args

from .checkpoint import Checkpoint
from .observers import Place
from .tally import Tally

Number = int | float | None  # null stands for a figure that the model has not
FIGURES = {"accuracy": Number, "loss": Number, "nfe": Number, "converged": Number}
EPOCH = {"epoch": int, "lr": Number, "train": FIGURES, "validation": FIGURES}
IMAGES = {"name": str, "source": str, "train": int, "test": int}
HEADER: Mapping[str, Any] = {
    "about": {"images": IMAGES, "training": dict, "model": {"name": str, "config": dict}},
    "place": {field.name: int for field in fields(Place)},
    "tally": {field.name: int | float for field in fields(Tally)},
    "history": [EPOCH],
}
TESTED = {"samples": int, "residual_median": Number, **FIGURES}
FINISHED: Mapping[str, Any] = {"best": {"epoch": int, **FIGURES}, "test": TESTED}
"""These are null until there are any."""
LATER: Mapping[str, Any] = {"since": int, "root": str | None, "version": str}
"""These came later: older runs lack them."""


def check_header(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError unless the checkpoint has the header of a run."""
    meta = checkpoint.meta
    found = {name: kind for name, kind in FINISHED.items() if meta.get(name, 0) is not None}
    found |= {name: kind for name, kind in LATER.items() if name in meta}
    wrong = misfit({**HEADER, **found}, meta)
    if wrong is not None:
        raise checkpoint.fault(wrong)
    place = meta["place"]
    steps = place["epoch"] * place["batches"] + place["batch"]
    for what, done, of in (
        ("epoch", place["epoch"], place["epochs"]),
        ("batch", place["batch"], place["batches"]),
        ("since", meta.get("since", 0), steps),
    ):
        if not 0 <= done <= of:
            raise checkpoint.fault(f"it stands at {what} {done} of {of}")


def misfit(kind: Any, value: Any, at: str = "") -> str | None:
    """Say where a value of JSON is not of a kind, or None.

    Arguments:
        kind: a type or a union of types; {name: kind} for an object that has these entries; [kind]
            for an array. A float may be written as a whole number.
        value: what `json.loads` returned.
        at: the place of the value, for the answer.
    """
    if isinstance(kind, Mapping):
        if not isinstance(value, Mapping):
            return f"{at or 'the header'} should be an object, not {_short(value)}"
        below = at and at + "."
        missing = [name for name in kind if name not in value]
        if missing:
            return f"{below}{missing[0]} is missing"
        parts = ((each, value[name], below + name) for name, each in kind.items())
    elif isinstance(kind, list):
        if not isinstance(value, list):
            return f"{at} should be an array, not {_short(value)}"
        parts = ((kind[0], each, f"{at}[{k}]") for k, each in enumerate(value))
    else:
        kinds = get_args(kind) or (kind,)
        if type(value) in kinds or (type(value) is int and float in kinds):
            return None
        names = " or ".join("null" if each is type(None) else each.__name__ for each in kinds)
        return f"{at} should be {names}, not {_short(value)}"
    return next((wrong for part in parts if (wrong := misfit(*part)) is not None), None)


def nonfinite(value: Any, at: str) -> str | None:
    """Return the place of a number that is not finite in a value of JSON, or None."""
    if isinstance(value, float):
        return None if math.isfinite(value) else f"{at} is {value}"
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list):
        parts = enumerate(value)
    found = (nonfinite(each, f"{at}.{name}") for name, each in parts)
    return next((each for each in found if each is not None), None)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:36]}..."
