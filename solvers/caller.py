"""Warnings that point at the line of the user's that led to them."""

from __future__ import annotations

import sys
import warnings

INSIDE = ("solvers", "homotopy_deq", "torch", "accelerate", "torchdiffeq")
"""Packages whose lines say nothing to a user: ours, and those that call us."""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn as `warnings.warn` does, at the innermost line outside `INSIDE`.

    `skip_file_prefixes` does so from Python 3.12 on, and by files. Where there is no such line, as
    in a backward pass in a thread of its own, it is the outermost.
    """
    frame = sys._getframe(1)
    while frame.f_back is not None and _inside(frame.f_globals.get("__name__")):
        frame = frame.f_back
    names = frame.f_globals
    warnings.warn_explicit(
        message,
        category,
        frame.f_code.co_filename,
        frame.f_lineno,
        names.get("__name__", "<unknown>"),
        names.setdefault("__warningregistry__", {}),
    )


def _inside(module: str | None) -> bool:
    return module is not None and module.split(".")[0] in INSIDE
