"""Gradient rules by the names of a command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from solvers import SHINE, Adjoint, Implicit, Phantom, Reversible, Unroll

from ..settings.declare import pick

AT_ROOT: Mapping[str, Callable[[], Any]] = {
    "implicit": Implicit,
    "phantom": Phantom,
    "jfb": Phantom,
    "unroll": Unroll,
    "reversible": Reversible,
    "shine": SHINE,
}
ALONG_FLOW: Mapping[str, Callable[[], Any]] = {
    "unroll": Unroll,
    "adjoint": Adjoint,
    "reversible": Reversible,
}
GRADIENTS = {**AT_ROOT, **ALONG_FLOW}
"""Gradients of what a pass finds at a root, and at the end of a flow."""

COUNTED = {"phantom": "steps", "unroll": "checkpoint"}
"""Gradients that may be given a number, as in "phantom:5", and what it is."""


def gradient_by(text: str) -> Any:
    """Return a gradient rule by its name, "phantom" and "unroll" with a number: "unroll:8"."""
    name, colon, number = text.partition(":")
    kind: Callable[..., Any] = GRADIENTS[pick("gradient", name, GRADIENTS)]
    if not colon:
        return kind()
    if name not in COUNTED or not number.isdecimal():
        raise ValueError(
            f"--gradient {text}: a number is of phantom (phantom:5, its steps) and of unroll "
            "(unroll:8, steps that are taken again at a time)."
        )
    return kind(**{COUNTED[name]: int(number)})
