"""A path without a graph, differentiated by a way back: what rules of this kind share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor

from ..problem import Equilibrium, InitialValue
from ..transforms import check_untransformed
from .function import once, pulled
from .graph import check_same, closure, cut, detached, evaluated, rooted

P = TypeVar("P", Equilibrium, InitialValue)
Back: TypeAlias = Callable[[P, tuple[Tensor, ...], Tensor], Sequence[Tensor]]


def evaluate(problem: Equilibrium | InitialValue, z: Tensor) -> Tensor:
    """Evaluate a map, or a field at its t0."""
    if isinstance(problem, Equilibrium):
        return problem(z)
    return problem(z.new_tensor(problem.t0), z)


def tied(rule: object, problem: P, z0: Tensor, end: Tensor, back: Back[P]) -> Tensor:
    """Return the end of a path as a function of its start, and of all that its map depends on.

    It has a first derivative, and says that it has no other where one is asked for.

    Arguments:
        rule: whose gradient it is.
        problem: what the path answers.
        z0: where it begins, (B, ...).
        end: where it ends, (B, ...), a constant.
        back: for the problem, its condition leading to nothing else, for the parameters that its
            map closes over and for dL/dend it returns the gradients in z0, in each tensor of the
            condition that requires one, and in each of the parameters.
    """
    originals: tuple[Tensor, ...] = (z0, *problem.inputs)
    # Reached through the condition, a parameter shared with what computed it would count twice.
    copies: tuple[Tensor, ...] = detached(originals)
    problem = replace(problem, condition=copies[1:])
    image, closed = evaluated(lambda: evaluate(problem, copies[0]))
    before = closure(image, *copies)
    known = {id(x) for x in copies}
    hidden: tuple[Tensor, ...] = tuple(p for p in closed if id(p) not in known)
    del image, closed
    places = [0, *(k for k, x in enumerate((*copies, *hidden)) if k and x.requires_grad)]

    def pull(v: Tensor, saved: Callable[[], tuple[Tensor, ...]]) -> Sequence[Tensor | None]:
        check_untransformed(v)
        sources: tuple[Tensor, ...] = saved()
        with torch.enable_grad():  # the map is evaluated again
            check_same(before, closure(rooted(evaluate(problem, copies[0])), *copies))
        with torch.no_grad(), cut(hidden):
            values: Sequence[Tensor | None] = back(problem, hidden, v)
        if torch.is_grad_enabled():  # create_graph
            values = once(values, (*sources, v), type(rule).__name__)
        kept = dict(zip(places, values, strict=True))
        return [kept.get(k) for k in range(len(sources))]

    return pulled(end, (*originals, *hidden), pull)
