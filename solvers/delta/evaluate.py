"""Evaluate an equation's map at the cost of what has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..guard import Guard
from ..norms import expand
from ..problem import Equilibrium, checked
from ..rows import Embedded
from ..structure import Cached, Counter, Threshold, Wrapped


def evaluate(
    problem: Equilibrium,
    z: Tensor,
    last: Cached | None,
    sent: Tensor,
    within: Threshold,
    ends: Tensor | None,
    held: Tensor | None,
    fz: Tensor,
) -> tuple[Tensor, Cached | None, Tensor]:
    """Return f(z), what the map keeps for the next evaluation, and the z that it was told of.

    A map that offers no `updated` is evaluated densely. One that does is brought up to date for
    the samples that go on, and evaluated densely, as the user wrote it, for those that may end.
    Each sample takes part in one evaluation.

    Arguments:
        problem: its map is f.
        z: where, (B, ...).
        last: what the map kept; None evaluates densely.
        sent: the z that `last` is of, (B, ...).
        within: the threshold of the layers further in.
        ends: which samples may end here, bool (B,); None where none may.
        held: which samples stay as they are, bool (B,), or None: `fz` is theirs still.
        fz: f at the last z, (B, ...).
    """
    counter, update = updating(problem)
    if update is None:
        return problem(z), None, sent
    if ends is not None and bool(ends.all()):
        return problem(z), last, sent
    still = ends if held is None else held if ends is None else ends | held
    told, image = sent, fz
    if still is None or not bool(still.all()):
        told = z if still is None else torch.where(expand(still, z), sent, z)
        last = update(last, within, told, *problem.inputs)
        image = checked(last.image, z, "map")
        if counter is not None:
            counter.spend(1 if ends is None else 0, last.work)
        if still is not None:
            image = torch.where(expand(still, z), fz, image)
    if ends is not None:
        index = ends.nonzero().squeeze(1)
        image = image.index_copy(0, index, problem.rows(index)(z.index_select(0, index)))
    return image, last, told


def updating(problem: Equilibrium) -> tuple[Counter | None, Callable[..., Cached] | None]:
    """Return the counter of the calls, and the map's method `updated` where it may be called.

    It may not where the map closes over the inputs of the full batch, nor under autocast, whose
    precision is too little to add changes up in.
    """
    counter: Counter | None = None
    function: Any = problem.map
    while not callable(getattr(function, "updated", None)):
        if isinstance(function, Counter):
            counter = function
        lowered = isinstance(function, Guard) and function.lowered is not None
        if lowered or isinstance(function, Embedded) or not isinstance(function, Wrapped):
            return counter, None
        function = function.function
    if problem.condition is None:
        return counter, None
    update: Callable[..., Cached] = function.updated
    return counter, update
