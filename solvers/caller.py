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


def warn_deprecated(message: str, *, gone: str) -> None:
    """Warn, at the caller's line, that a form of this library's is on its way out.

    The rule: what is public goes only after a minor version in which it still works and warns. So
    `gone` is at least two minor versions after the last that had the form as its own, and the
    tests fail in that version while the form is still there.

    Arguments:
        message: what was written, and what to write in its place.
        gone: the version without it, such as "0.3".
    """
    warn_caller(f"{message} The old form goes in version {gone}.", DeprecationWarning)


def _inside(module: str | None) -> bool:
    return module is not None and module.split(".")[0] in INSIDE
