"""Ask for votes about several images side by side, each as if it were alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np

from .noise import Phase
from .votes import Session

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """What is asked next about an image: the votes of some of its noise samples.

    Arguments:
        session: of the image.
        index: keys the noise.
        phase: what the samples are for.
        start: the first of them.
        stop: the one after the last.
        target: the class that they are asked for, or None for any.
    """

    session: Session
    index: int
    phase: Phase
    start: int
    stop: int
    target: int | None = None

    def __len__(self) -> int:
        return self.stop - self.start


Asking: TypeAlias = Generator[Ask, np.ndarray, T]
"""Asks for votes, is sent them, (samples,), and returns what follows from them."""

Answer: TypeAlias = Callable[[Sequence[Sequence[Ask]]], Sequence[Sequence[np.ndarray]]]
"""Votes on packs of questions, each of one phase and solved for together."""


def side_by_side(askings: Sequence[Asking[T]], answer: Answer, room: int) -> Iterator[T]:
    """Yield what each asking comes to, as soon as it does.

    What one asks for does not depend on the others, only what its samples are solved beside. Each
    goes on by one question a round, so that this, too, is decided by the askings alone.

    Arguments:
        askings: one an image.
        answer: votes.
        room: samples of several images that are solved together, at most.
    """
    open_now = {k: next(asking) for k, asking in enumerate(askings)}
    while open_now:
        packs = list(packed(open_now, room))
        answers = answer([[open_now[k] for k in some] for some in packs])
        for some, answered in zip(packs, answers, strict=True):
            for k, labels in zip(some, answered, strict=True):
                try:
                    open_now[k] = askings[k].send(labels)
                except StopIteration as end:
                    del open_now[k]
                    yield end.value


def packed(asked: Mapping[int, Ask], room: int) -> Iterator[list[int]]:
    """Yield the keys of questions that are answered together."""
    packs: dict[Phase, list[int]] = {}
    for k, ask in asked.items():
        if ask.session.alone:
            yield [k]
            continue
        pack = packs.setdefault(ask.phase, [])
        if pack and sum(len(asked[j]) for j in pack) + len(ask) > room:
            yield packs[ask.phase]
            packs[ask.phase] = pack = []
        pack.append(k)
    yield from packs.values()
