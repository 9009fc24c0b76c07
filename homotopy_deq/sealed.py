"""JSON that says when it was altered, and JSON of which every fault is a ValueError."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, get_args

DEEPEST = 50
"""Levels of JSON: what the library writes has ten."""

MARK = b', "sha256": "'
END = b'"}'
SHA = 64
"""Of a line: a checksum of the rest is its last entry, so that no altered digit is believed."""


def parse(text: bytes | str) -> Any:
    """Return what `json.loads` does.

    Raises:
        ValueError: it is no JSON, no text, or nested too deep to be read.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    level = [value]
    for _ in range(DEEPEST):  # what can be read may be too deep for what goes through it
        level = [inner for each in level for inner in _inside(each)]
    if level:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    return value


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


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


def seal(body: Mapping[str, Any]) -> bytes:
    """Return a JSON object on a line of its own, its checksum the last entry.

    Raises:
        ValueError: a number is nan or infinite, which JSON does not have.
    """
    return _sealed(json.dumps(body, allow_nan=False).encode()[:-1]) + b"\n"


def unseal(line: bytes) -> dict[str, Any]:
    """Return what was sealed; `line` is without its line break.

    Raises:
        ValueError: any byte of the line was altered, or it was never sealed.
    """
    inner = line[: -len(MARK) - SHA - len(END)]
    if not inner or line != _sealed(inner):
        raise ValueError("its checksum does not fit: it was altered")
    body: dict[str, Any] = parse(inner + b"}")
    return body


def digest(body: Mapping[str, Any]) -> str:
    """Return the checksum of a JSON object, however it is laid out."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sealed(inner: bytes) -> bytes:
    return inner + MARK + hashlib.sha256(inner).hexdigest().encode() + END


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else f"{text[:36]}..."
