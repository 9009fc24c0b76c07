"""What the ways of one step cost, and which of them pays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MARGIN = 0.85
"""A sparse step is taken where it is said to cost at most this share of the dense one: timings on a
machine that others use are no better than that."""
WORTH = 0.6
"""A solve follows changes where a step of next to nothing costs at most this share of a dense one:
with more, the steps in which much changes lose what those in which little does save."""


@dataclass(frozen=True)
class Line:
    """Seconds for so many columns or tiles: `call` + `unit` x their number."""

    call: float
    unit: float

    def __call__(self, count: float) -> float:
        return self.call + self.unit * count


@dataclass(frozen=True)
class Costs:
    """What the ways of one step cost, for one size, in seconds.

    Arguments:
        dense: the product with everything.
        book: what a solver's step by changes takes beside products, more than its plain step.
        look: what every other way takes for its size alone: to find what has changed, to copy.
        fresh: to gather some columns or tiles and multiply with them.
        kept: to multiply with some that were gathered before.
        run: to multiply with a run of neighbouring columns in place.
    """

    dense: float
    book: float
    look: float
    fresh: Line
    kept: Line
    run: Line

    @property
    def looks(self) -> bool:
        """Whether it pays to look at all: not where next to nothing costs as much as everything."""
        return self.pays(self.fresh(1))

    @property
    def worth(self) -> bool:
        """Whether a solve may gain by following changes."""
        return self.looks and self.book + self.look + self.fresh(1) <= WORTH * self.dense

    def pays(self, seconds: float) -> bool:
        """Say whether to look and take a way of so many seconds in the place of the dense one."""
        return self.look + seconds <= MARGIN * self.dense


@dataclass(frozen=True)
class Point:
    """Costs that were measured.

    Arguments:
        batch: rows of the product; 1 where the units are tiles of all samples together.
        units: columns, or tiles, of everything.
        work: multiply-adds of a row and unit.
        costs: the seconds.
    """

    batch: int
    units: int
    work: int
    costs: Costs


ALWAYS = Costs(math.inf, 0.0, 0.0, *3 * (Line(0.0, 0.0),))
"""Costs by which every step is sparse."""


def scaled(points: Sequence[Point], batch: int, units: int, work: int) -> Costs | None:
    """Return the costs of a size, from the nearest one that was measured; None if none was.

    Nearest is by the logarithms of the batch and the work. What a call costs stays; what it costs
    for a unit scales with the unit's multiply-adds.

    Arguments:
        points: what was measured.
        batch: rows of the product.
        units: columns, or tiles, of everything.
        work: multiply-adds of a row and unit.
    """
    if not points:
        return None

    def far(point: Point) -> float:
        return abs(math.log(batch / point.batch)) + abs(math.log(work / point.work))

    near = min(points, key=far)
    found, scale = near.costs, batch * work / (near.batch * near.work)
    moved = work / near.work  # gathering moves weights or pixels, whatever the batch
    kept = found.kept.unit * scale
    return Costs(
        dense=found.dense * scale * units / near.units,
        book=found.book * max(1.0, batch * units / (near.batch * near.units)),
        look=found.look * max(1.0, batch * units / (near.batch * near.units)),
        fresh=Line(found.fresh.call, kept + (found.fresh.unit - found.kept.unit) * moved),
        kept=Line(found.kept.call, kept),
        run=Line(found.run.call, found.run.unit * scale),
    )
