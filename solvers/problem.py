"""The two equations whose answers are an implicit layer's output."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor

from .rows import Embedded, select
from .structure import Counter as Counter
from .structure import Map as Map

Q = TypeVar("Q", bound="Problem")


class Problem:
    """What both equations are: a map, what it receives beside the state, and rows.

    Attributes:
        name: the field that holds the map.
        leads: how many arguments of the map come before the state.
    """

    name: ClassVar[str]
    leads: ClassVar[int]
    condition: tuple[Tensor, ...] | None

    @property
    def function(self) -> Map:
        """The map."""
        found: Map = getattr(self, self.name)
        return found

    @property
    def functions(self) -> tuple[Map, ...]:
        """The map, and what else a solver may evaluate in its place."""
        return (self.function,)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The condition, () where there is none."""
        return self.condition or ()

    def rows(self: Q, index: Tensor) -> Q:
        """Return the problem of the samples `index` (int64) alone."""
        if self.condition is None:
            raise ValueError(
                "A problem with condition=None has no rows to select: its map closes over its "
                "inputs. Pass them as condition=(x, ...), tensors with the batch first."
            )
        return self._with(condition=select(self.inputs, index))

    def wrapped(self: Q, wrap: Callable[[Map], Map]) -> Q:
        """Return the problem with its map, and what else the user wrote, put through `wrap`."""
        return self._with(**{self.name: wrap(self.function)})

    def counted(self: Q) -> tuple[Q, Counter]:
        """Return the same problem with a map that counts its calls, and the counter."""
        counter = Counter(self.function)
        return self._with(**{self.name: counter}), counter

    def _with(self: Q, **fields: Any) -> Q:
        return cast("Q", replace(cast("Any", self), **fields))


def checked(out: Tensor, z: Tensor, name: str) -> Tensor:
    """Return what a map made of a state, in the state's dtype, or raise if it is no such state."""
    if not (isinstance(out, Tensor) and out.shape == z.shape and out.device == z.device):
        raise ValueError(
            f"The {name} must return the shape of its state, on its device; got "
            f"{described(out)} for a state of shape {tuple(z.shape)} on {z.device}."
        )
    if out.dtype == z.dtype:
        return out
    if not out.is_floating_point():
        raise ValueError(f"The {name} must return real numbers; got {described(out)}.")
    return out.to(z.dtype)  # autocast returns half precision


@dataclass(frozen=True)
class Equilibrium(Problem):
    """The fixed-point equation z* = f(z*, *condition).

    Arguments:
        map: f(z, *condition) -> Tensor of z's shape, (B, ...). Row i of the output must depend on
            row i of the state and of each condition tensor alone. It may be `Structured` and
            offer bounds, columns and a count of its multiply-adds.
        condition: tensors (B, ...) that f receives beside z. Solvers select their rows when they
            go on with the unfinished samples only. With `None` the map is f(z), closes over
            whatever it needs, and always runs on the full batch.
        coupled: the rows are one system, as the nodes of a graph are or samples that share the
            statistics of their batch: one norm, one status and one count for all of them, and
            none is ever dropped. Row i of the map may then depend on every row, and a condition
            tensor have any shape and layout, as edges (2, E) or a sparse adjacency have.
        rowwise: a promise that row i depends on row i alone, and that the map draws no random
            numbers, writes into none of its arguments and returns new memory each time. Without
            it, answers that were found while other rows had stopped are checked by one more
            evaluation on the full batch (`Solution.checks`).
        everything: set by the loop where the map closes over its inputs: the numbers of all rows,
            and `condition` is then those of this problem's (see `Embedded`).
    """

    name: ClassVar[str] = "map"
    leads: ClassVar[int] = 0

    map: Map
    condition: tuple[Tensor, ...] | None = None
    coupled: bool = field(default=False, kw_only=True)
    rowwise: bool = field(default=False, kw_only=True)
    everything: Tensor | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_tuple(self.condition)
        if self.coupled and self.rowwise:
            raise ValueError("coupled rows depend on each other and rowwise ones do not; say one.")

    def __call__(self, z: Tensor) -> Tensor:
        """Evaluate f(z, *condition), in z's dtype."""
        return checked(self.map(z, *self.inputs), z, "map")

    def apply(self, function: Map, *args: Tensor) -> Tensor:
        """Return function(*args, *condition) of a user's function that goes with the map."""
        if self.everything is not None:
            function = Embedded(function, self.everything)
        return function(*args, *self.inputs)

    def residual(self, z: Tensor) -> Tensor:
        """Evaluate f(z) - z."""
        return self(z) - z


@dataclass(frozen=True)
class InitialValue(Problem):
    """The initial value problem dz/dt = f(t, z, *condition), z(t0) = z0; its answer is z(t1).

    Arguments:
        field: f(t, z, *condition) -> Tensor of z's shape, (B, ...); t is 0-d where all samples
            share it, (B, 1, ..., 1) under a solver with steps of its own for each sample.
        t0: start of the time interval, a finite number. Times are kept in double precision; f
            receives t in z's dtype.
        t1: its end, another number; t1 < t0 integrates backwards.
        condition: tensors (B, ...) that f receives beside t and z, as in `Equilibrium`.
        coupled: as in `Equilibrium`.
        rowwise: as in `Equilibrium`; a solver with steps of its own for each sample asks for it.
        everything: as in `Equilibrium`.
    """

    name: ClassVar[str] = "field"
    leads: ClassVar[int] = 1

    field: Map
    t0: float = 0.0
    t1: float = 1.0
    condition: tuple[Tensor, ...] | None = None
    coupled: bool = dataclasses.field(default=False, kw_only=True)
    rowwise: bool = dataclasses.field(default=False, kw_only=True)
    everything: Tensor | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_tuple(self.condition)
        check_time("t0", self.t0)
        check_time("t1", self.t1)
        if self.t0 == self.t1:
            raise ValueError(
                f"t0 and t1 must differ; got t0 = t1 = {self.t0}. The answer there is z0 itself."
            )

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Evaluate f(t, z, *condition), in z's dtype."""
        return checked(self.field(t, z, *self.inputs), z, "field")


def check_tuple(condition: object) -> None:
    """Raise TypeError where a condition is one tensor, whose rows would be taken for tensors."""
    if isinstance(condition, Tensor):
        raise TypeError(
            f"condition must be a tuple of tensors; got {described(condition)}. Write "
            "condition=(x,) for one."
        )


def check_time(name: str, value: object) -> None:
    """Raise TypeError unless a time is a number, and ValueError unless it is finite."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a number; got a {type(value).__name__}. Use float({name}); times that "
            "are learned are those of solve_at, or t1 of a FlowLayer."
        )
    if not math.isfinite(value):
        raise ValueError(
            f"{name} must be a finite number; got {value}. To rest at an equilibrium, solve "
            "z = f(z) as an Equilibrium."
        )


def check_start(problem: Equilibrium | InitialValue, z0: Tensor) -> None:
    """Raise ValueError unless z0 is a floating (B, ...) state that fits the condition."""
    if not isinstance(z0, Tensor) or not torch.is_floating_point(z0):
        raise ValueError(
            "z0 must be a floating-point tensor, (B, ...), or a tuple of them; got "
            f"{described(z0)}. Complex ones are real by torch.view_as_real, and whole numbers "
            "belong into the condition."
        )
    if z0.dtype.itemsize < 4:
        raise ValueError(
            f"z0 must be in single or double precision; got {z0.dtype}. For half precision keep "
            "the state in float32 and evaluate the map under torch.autocast."
        )
    if z0.dim() < 2:
        raise ValueError(
            f"z0 must have the batch first and at least one more dimension, (B, ...); got shape "
            f"{tuple(z0.shape)}. Use z0[None] for one state, z0[:, None] for a batch of scalars."
        )
    if not problem.coupled:  # which is empty: others have become one row
        check_condition(problem.inputs, z0.shape[0])


def check_condition(condition: tuple[Tensor, ...], batch: int) -> None:
    """Raise TypeError unless each is a dense tensor, ValueError unless it has the batch first."""
    for k, tensor in enumerate(condition):
        check_tensor(tensor, k, f"({batch}, ...)")
        if tensor.layout != torch.strided:
            raise TypeError(
                f"condition[{k}] must be dense, as its rows are selected; got {tensor.layout}. Use "
                "to_dense(), or coupled=True where it makes one system of the rows, as the "
                "adjacency of a graph does."
            )
        if tensor.dim() == 0 or tensor.shape[0] != batch:
            raise ValueError(
                f"condition[{k}] must have the batch of z0 first, ({batch}, ...); "
                f"got shape {tuple(tensor.shape)}."
            )


def check_tensor(value: object, k: int, shape: str) -> None:
    """Raise TypeError unless a part of a condition is a tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(
            f"condition[{k}] must be a tensor, {shape}; got {described(value)}. What "
            "all samples share belongs into the map: close over it."
        )


def described(value: object) -> str:
    """Return what a value is, for a message."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"a tensor of {value.dtype}, {tuple(value.shape)}, on {value.device}"
