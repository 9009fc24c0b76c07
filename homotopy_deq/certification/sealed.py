"""JSON that carries a checksum of itself, so that no altered digit is ever read as a result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

MARK = b', "sha256": "'
END = b'"}'
DIGITS = 64


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
    inner = line[: -len(MARK) - DIGITS - len(END)]
    if not inner or line != _sealed(inner):
        raise ValueError("its checksum does not fit: it was altered")
    body: dict[str, Any] = json.loads(inner + b"}")
    return body


def digest(body: Mapping[str, Any]) -> str:
    """Return the checksum of a JSON object, however it is laid out."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _sealed(inner: bytes) -> bytes:
    return inner + MARK + hashlib.sha256(inner).hexdigest().encode() + END
