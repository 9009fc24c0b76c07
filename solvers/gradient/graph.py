"""The tensors that a computation depends on, read off its autograd graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..problem import Equilibrium, InitialValue

Edge = tuple[Any, int]
"""A result of a node of the graph: the node, and which of its results."""


def leaves(output: Tensor) -> tuple[Tensor, ...]:
    """Return the leaf tensors that require a gradient and that `output` depends on.

    In the order of first visit.
    """
    return _walk([_edge(output)])[0]


def evaluated(function: Callable[[], Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return what a function computes, and which tensors it closes over that require a gradient.

    These are leaves (parameters), and what was computed from others before: the fast weights of
    meta-learning, a matrix that was made from parameters once per solve. Gradients end there. A
    tensor is told by the function's calls of torch: where there are such, one evaluation more
    watches them. One that they do not show (in compiled code) is stood for by its own leaves.
    """
    with torch.enable_grad(), _casts_anew():
        begin = torch.zeros((), requires_grad=True).view(()).grad_fn
        assert begin is not None
        image = rooted(function())
        found, entries = _walk([_edge(image)], begin._sequence_nr())
        if not entries:
            return image, found
        with _Watch(entries) as watch:
            function()
    beyond, _ = _walk([edge for edge in entries if edge not in watch.found])
    closed = (*found, *beyond, *watch.found.values())
    return image, tuple({id(tensor): tensor for tensor in closed}.values())


@contextmanager
def _casts_anew() -> Iterator[None]:
    """Have autocast cast weights each time: a copy that it keeps would pass for an input."""
    kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)


def rooted(image: Tensor) -> Tensor:
    """Return what a map made with a graph that begins there: of a leaf that it returns, a view."""
    return image.view_as(image) if image.is_leaf and image.requires_grad else image


def closure(image: Tensor, *inputs: Tensor) -> set[int]:
    """Return the leaves that a map closes over, as told by what it made of some inputs."""
    found, _ = _walk([_edge(image)], ends=frozenset(map(_edge, inputs)))
    return {id(leaf) for leaf in found} - {id(tensor) for tensor in inputs}


def check_same(before: set[int], now: set[int]) -> None:
    """Raise RuntimeError if a map closes over other leaves in a backward pass than it did before.

    A module does once `torch.func.functional_call` has ended.
    """
    if before != now:
        raise RuntimeError(
            "The map closes over other parameters in this backward pass than when it was solved, "
            "as a module does once torch.func.functional_call has ended, or some were frozen "
            "since. Give functional_call plain tensors (p.detach().requires_grad_()), freeze after "
            "backward(), or use Unroll()."
        )


@contextmanager
def cut(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Let no gradient pass beyond tensors that are computed from others, while it lasts.

    So a gradient in several tensors is the partial one in each, also where one of them was
    computed from another. Nor do hooks of theirs see it, or `retain_grad` keep it: these are for
    the whole gradient, which comes once the partial ones are returned.
    """
    tensors = tuple(tensors)
    handles = [
        tensor.grad_fn.register_prehook(lambda gradients: (None,) * len(gradients))
        for tensor in tensors
        if tensor.grad_fn is not None
    ]
    hooked = [(hooks, dict(hooks)) for t in tensors if (hooks := t._backward_hooks)]
    retained = [(t, t.grad) for t in tensors if t.retains_grad]
    for hooks, _ in hooked:
        hooks.clear()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for hooks, kept in hooked:
            hooks.update(kept)
        for tensor, gradient in retained:
            tensor.grad = gradient


def _edge(tensor: Tensor) -> Edge:
    return tensor.grad_fn, tensor.output_nr


def _walk(
    queue: list[Edge], begin: int = 0, ends: frozenset[Edge] = frozenset()
) -> tuple[tuple[Tensor, ...], list[Edge]]:
    """Return the leaves that the edges lead to, and the edges at which the way to more ends.

    Arguments:
        queue: where to begin.
        begin: the number of the first node that is followed. Numbers are given by thread: a node
            of another thread may pass for a new one, and its leaves are found.
        ends: edges that are not followed either.
    """
    found: dict[int, Tensor] = {}
    entries: dict[Edge, None] = {}
    seen: set[Any] = {None}
    while queue:
        node, index = queue.pop()
        if node in seen:
            continue
        variable = getattr(node, "variable", None)  # on AccumulateGrad nodes alone
        if variable is not None:
            found[id(variable)] = variable
        elif node._sequence_nr() < begin or (node, index) in ends:
            entries[node, index] = None  # another of its results may be followed
            continue
        seen.add(node)
        queue.extend(node.next_functions)
    return tuple(found.values()), list(entries)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Find the tensors that stand at some edges of a graph, among those that torch is called with.

    Arguments:
        edges: where.
    """

    def __init__(self, edges: Iterable[Edge]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.edges = set(edges)
        self.found: dict[Edge, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and _edge(value) in self.edges:
                self.found.setdefault(_edge(value), value)
        return func(*args, **(kwargs or {}))


def tied_to_nothing(value: Tensor, problem: Equilibrium | InitialValue, start: Tensor) -> Tensor:
    """Return the value with a graph to all that its problem depends on, every gradient in it 0.

    An answer that depends on nothing leaves None to the parameters before it, where data
    parallelism waits for zeros. The map is evaluated once, at `start`, which need not be finite.
    """
    if isinstance(problem, InitialValue):
        _, closed = evaluated(lambda: problem(start.new_tensor(problem.t0), start))
    else:
        _, closed = evaluated(lambda: problem(start))
    for tensor in (*closed, start, *problem.inputs):
        if tensor.requires_grad:
            value = value + _nothing(tensor).real.to(value)
    return value


def _nothing(tensor: Tensor) -> Tensor:
    """Return 0, of a tensor's graph."""
    if tensor.layout != torch.strided:  # of which no part is taken
        return tensor.sum().nan_to_num(0, 0, 0) * 0
    return tensor.unsqueeze(-1)[..., :0].sum()


def detached(condition: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the tensors as leaves, which require a gradient where the originals do."""
    return tuple(t.detach().requires_grad_(t.requires_grad) for t in condition)
