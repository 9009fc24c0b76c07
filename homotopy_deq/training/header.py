"""What the JSON of a run must hold, checked before anything is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..sealed import misfit
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
