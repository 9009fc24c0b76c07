"""The tensors that a computation depends on, read off its autograd graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def leaves(output: Tensor) -> tuple[Tensor, ...]:
    """Return the leaf tensors that require a gradient and that `output` depends on.

    A map may close over its parameters; this finds them, so none is missed by a gradient rule
    that needs them listed. In the order of first visit.
    """
    found: dict[int, Tensor] = {}
    seen: set[Any] = {None}
    queue: list[Any] = [output.grad_fn]
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # on AccumulateGrad nodes alone
        if variable is not None:
            found[id(variable)] = variable
        queue.extend(parent for parent, _ in node.next_functions)
    return tuple(found.values())
