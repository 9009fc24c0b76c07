"""The tensors that a computation depends on, read off its autograd graph."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..problem import Equilibrium, InitialValue


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


def tied_to_nothing(value: Tensor, problem: Equilibrium | InitialValue, start: Tensor) -> Tensor:
    """Return the value with a graph to all that its problem depends on, every gradient in it 0.

    An answer that depends on nothing leaves None to the parameters before it, where data
    parallelism waits for zeros. The map is evaluated once, at `start`, which need not be finite.
    """
    if isinstance(problem, InitialValue):
        image = problem(start.new_tensor(problem.t0), start)
    else:
        image = problem(start)
    for tensor in (*leaves(image), start, *(problem.condition or ())):
        if tensor.requires_grad:
            value = value + tensor.unsqueeze(-1)[..., :0].sum().to(value)
    return value


def detached(condition: tuple[Tensor, ...] | None) -> tuple[Tensor, ...]:
    """Return the tensors as leaves, which require a gradient where the originals do."""
    return tuple(t.detach().requires_grad_(t.requires_grad) for t in condition or ())
