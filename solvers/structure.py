"""Maps that say more of themselves than their values, and how that is found behind a wrapper."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

Map = Callable[..., Tensor]


@dataclass(frozen=True)
class Cached:
    """What a map that is brought up to date by changes keeps of its last evaluation.

    Arguments:
        image: its value f(z), (B, ...).
        parts: what else, such as references and products, tensors with the batch first.
        work: multiply-adds that the evaluation took, all samples together.
        exact: whether the value is that of f, to rounding: nothing was skipped within.
        idle: evaluations to come that had better be dense, as the last changes were too many.
    """

    image: Tensor
    parts: tuple[Tensor, ...]
    work: int
    exact: bool
    idle: int = 0

    def rows(self, index: Tensor) -> Cached:
        """Return what belongs to the samples `index` alone."""
        image, *parts = (part.index_select(0, index) for part in (self.image, *self.parts))
        return replace(self, image=image, parts=tuple(parts))


class Threshold(Protocol):
    """Which changes are propagated.

    Attributes:
        active: which entries of the state may differ from those of the last evaluation, bool, of a
            shape that broadcasts to the state's; None where that is not known.
        since: the state of that evaluation, where `active` is known.
    """

    @property
    def active(self) -> Tensor | None: ...

    @property
    def since(self) -> Tensor | None: ...

    def far(self, change: Tensor, ratio: float = 1.0) -> Tensor:
        """Return which entries of a change (B, ...) are above `ratio` times the threshold, bool."""
        ...


class Structured(Protocol):
    """A map f(z, *condition) with structure. Each of its methods but the call may be missing."""

    def __call__(self, z: Tensor, *condition: Tensor) -> Tensor:
        """Evaluate f, of z's shape, (B, ...)."""
        ...

    def lipschitz(self) -> float:
        """Return an upper bound of ||f(a, ...) - f(b, ...)|| / ||a - b||, whatever the condition.

        Norms are 2-norms of a sample, and f is that of exact arithmetic.
        """
        ...

    def columns(self, index: Tensor) -> Map:
        """Return d -> W d for the linear part W of f and changes d of some entries alone.

        W (z + d) = W z + columns(index)(d) then costs what those entries cost.

        Arguments:
            index: which entries of the state's first dimension behind the batch, features or
                channels, int64 (k,); d is (B, k, ...).
        """
        ...

    def transposed(self) -> Map:
        """Return the transposed map, where f is linear, W, and takes no condition."""
        ...

    def multiply_adds(self, z: Tensor, *condition: Tensor) -> int:
        """Return how many an evaluation at z, (B, ...), takes, all samples together."""
        ...

    def pays(self, z: Tensor, *condition: Tensor) -> bool:
        """Say whether bringing f up to date by changes may cost less than calls, for such states.

        Arguments:
            z: any, (B, ...).
            condition: what f receives beside it.
        """
        ...

    def updated(
        self, last: Cached | None, within: Threshold, z: Tensor, *condition: Tensor
    ) -> Cached:
        """Evaluate f at z at the cost of what has changed since an evaluation.

        Every change of z itself is propagated. A layer further in may leave out changes of its
        input from what it last propagated, up to a threshold; then the value is not `exact`.

        Arguments:
            last: an earlier evaluation of these samples, at any z; None evaluates densely.
            within: the threshold of the layers further in.
            z: the state, (B, ...).
            condition: what f receives beside it.
        """
        ...


class Wrapped:
    """A map around another, `function`, of the same values: it offers what that one offers."""

    function: Map


def offered(function: object, name: str) -> Callable[..., Any] | None:
    """Return a method of `Structured` that a map, or the one in its wrappers, has, or None."""
    found: Any = getattr(function, name, None)
    while not callable(found) and isinstance(function, Wrapped):
        function = function.function
        found = getattr(function, name, None)
    return found if callable(found) else None


def compiled(function: object) -> bool:
    """Say whether torch.compile was called on a map, the one in its wrappers, or a module in it."""
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled
        return False
    while isinstance(function, Wrapped):
        function = function.function
    modules: Callable[[], Iterable[object]] | None = getattr(function, "modules", None)
    marks = "_orig_mod", "_torchdynamo_orig_callable", "_compiled_call_impl"
    return any(
        getattr(each, mark, None) is not None
        for each in (modules() if callable(modules) else (function,))
        for mark in marks
    )


class Counter(Wrapped):
    """Call a map; count the calls and, where it says them, the multiply-adds.

    Arguments:
        function: the map.
        whole: the counter that counts, where this is another map of the same problem.

    Attributes:
        count: calls; a Jacobian-vector product is one.
        work: multiply-adds of all samples together; None once a map was called that says nothing.
    """

    def __init__(self, function: Map, whole: Counter | None = None) -> None:
        self.function = function
        self.count = 0
        self.work: int | None = 0
        self._says = offered(function, "multiply_adds")
        self._each: int | None = None
        self._whole = whole

    def __call__(self, *args: Tensor) -> Tensor:
        each = None if self._says is None else self._says(*args)
        (self._whole or self).add(1, each)
        return self.function(*args)

    def add(self, calls: int, each: int | None) -> None:
        """Count calls of so many multiply-adds each, None where that is not known."""
        self.count += calls
        self._each = each
        self.work = None if each is None or self.work is None else self.work + calls * each

    def spend(self, calls: int, work: int) -> None:
        """Count calls that took so many multiply-adds together."""
        self.count += calls
        self.work = None if self.work is None else self.work + work

    def repeat(self, calls: int) -> None:
        """Count products with the Jacobian, at what the last evaluation took."""
        self.add(calls, self._each)
