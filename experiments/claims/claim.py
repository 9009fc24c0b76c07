"""A claim of a paper, and what a result here says of it by a rule that is stated beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

HOLDS, PART, NOT = "holds", "holds in part", "does not hold here"
NOT_RUN, NOT_TESTED = "not run", "not tested"

Body = dict[str, Any]
"""A JSON of experiments/results: the settings are in "config", the figures in "result"."""


@dataclass(frozen=True)
class Found:
    """What a result says of a claim.

    Arguments:
        figure: ours, in a sentence.
        tests: whether each thing that the rule asks for is so, in its order.
        size: of what was measured: data, seeds, epochs.
    """

    figure: str
    tests: tuple[bool, ...]
    size: str

    @property
    def verdict(self) -> str:
        """All that the rule asks for, some of it, or none."""
        return HOLDS if all(self.tests) else PART if any(self.tests) else NOT


@dataclass(frozen=True)
class Source:
    """A result that bears on a claim.

    Arguments:
        name: of its JSON.
        command: that makes it.
        rule: what has to be so, (a), (b) and so on.
        read: finds the figures in the JSON; None where it lacks them.
        differs: from the paper.
        picture: of docs/images.
    """

    name: str
    command: str
    rule: str
    read: Callable[[Body], Found | None]
    differs: str = ""
    picture: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim, the paper's own figure, and the results that bear on it, or why none does."""

    says: str
    theirs: str
    sources: tuple[Source, ...] = ()
    untested: str = ""


@dataclass(frozen=True)
class Paper:
    """A paper, with the page of these docs that uses it."""

    short: str
    citation: str
    link: str
    page: str
    claims: tuple[Claim, ...]


def tens(values: list[float], unit: str = "", digits: int = 1) -> str:
    """Write a range: "5.5 to 9.0x"."""
    low, high = (f"{f(values):.{digits}f}" for f in (min, max))
    return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


def studied(body: Body, *begins: str) -> list[Body]:
    """Return the claims of a study (says, found, holds) that begin so, in the order asked for."""
    said = body["result"]["claims"]
    return [each for begin in begins for each in said if each["says"].startswith(begin)]


def of_study(size: Callable[[Body], str], *begins: str) -> Callable[[Body], Found | None]:
    """Return a reader of a study's claims, each of which is asked for."""

    def read(body: Body) -> Found | None:
        found = studied(body, *begins)
        if not found:
            return None
        figure = "; ".join(f"{each['says']}: {each['found']}" for each in found)
        return Found(figure, tuple(each["holds"] for each in found), size(body))

    return read
