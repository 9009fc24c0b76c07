"""The two equations whose answers are an implicit layer's output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Map = Callable[..., Tensor]


def _rows(condition: tuple[Tensor, ...] | None, index: Tensor) -> tuple[Tensor, ...] | None:
    if condition is None:
        raise ValueError(
            "A problem with condition=None has no rows to select: its map closes over its inputs. "
            "Pass them as condition=(x, ...), tensors with the batch first."
        )
    return tuple(tensor.index_select(0, index) for tensor in condition)


def _checked(out: Tensor, z: Tensor, name: str) -> Tensor:
    if out.shape != z.shape:
        raise ValueError(
            f"The {name} must return the shape of its state; "
            f"got {tuple(out.shape)} for a state of shape {tuple(z.shape)}."
        )
    return out if out.dtype == z.dtype else out.to(z.dtype)  # autocast returns half precision


@dataclass(frozen=True)
class Equilibrium:
    """The fixed-point equation z* = f(z*, *condition).

    Arguments:
        map: f(z, *condition) -> Tensor of z's shape, (B, ...). Row i of the output must depend on
            row i of the state and of each condition tensor alone.
        condition: tensors (B, ...) that f receives beside z. Solvers select their rows when they
            go on with the unfinished samples only. With `None` the map is f(z), closes over
            whatever it needs, and always runs on the full batch.
    """

    map: Map
    condition: tuple[Tensor, ...] | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """Evaluate f(z, *condition), in z's dtype."""
        return _checked(self.map(z, *(self.condition or ())), z, "map")

    def residual(self, z: Tensor) -> Tensor:
        """Evaluate f(z) - z."""
        return self(z) - z

    def rows(self, index: Tensor) -> Equilibrium:
        """Return the problem of the samples `index` (int64) alone."""
        return replace(self, condition=_rows(self.condition, index))

    def counted(self) -> tuple[Equilibrium, Counter]:
        """Return the same problem with a map that counts its calls, and the counter."""
        counter = Counter(self.map)
        return replace(self, map=counter), counter


@dataclass(frozen=True)
class InitialValue:
    """The initial value problem dz/dt = f(t, z, *condition), z(t0) = z0; its answer is z(t1).

    Arguments:
        field: f(t, z, *condition) -> Tensor of z's shape, (B, ...); t is a 0-d tensor.
        t0: start of the time interval.
        t1: its end; t1 < t0 integrates backwards.
        condition: tensors (B, ...) that f receives beside t and z, as in `Equilibrium`.
    """

    field: Map
    t0: float = 0.0
    t1: float = 1.0
    condition: tuple[Tensor, ...] | None = None

    def __post_init__(self) -> None:
        if self.t0 == self.t1:
            raise ValueError(f"t0 and t1 must differ; got t0 = t1 = {self.t0}.")

    def __call__(self, t: Tensor, z: Tensor) -> Tensor:
        """Evaluate f(t, z, *condition), in z's dtype."""
        return _checked(self.field(t, z, *(self.condition or ())), z, "field")

    def rows(self, index: Tensor) -> InitialValue:
        """Return the problem of the samples `index` (int64) alone."""
        return replace(self, condition=_rows(self.condition, index))

    def counted(self) -> tuple[InitialValue, Counter]:
        """Return the same problem with a field that counts its calls, and the counter."""
        counter = Counter(self.field)
        return replace(self, field=counter), counter


class Counter:
    """Call a map and count the calls (a Jacobian-vector product is one call)."""

    def __init__(self, function: Map) -> None:
        self.function = function
        self.count = 0

    def __call__(self, *args: Tensor) -> Tensor:
        self.count += 1
        return self.function(*args)


def check_start(problem: Equilibrium | InitialValue, z0: Tensor) -> None:
    """Raise ValueError unless z0 is a floating (B, ...) state that fits the condition."""
    if not isinstance(z0, Tensor) or not torch.is_floating_point(z0):
        raise ValueError(f"z0 must be a floating-point tensor; got {_describe(z0)}.")
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
    for k, tensor in enumerate(problem.condition or ()):
        if tensor.dim() == 0 or tensor.shape[0] != z0.shape[0]:
            raise ValueError(
                f"condition[{k}] must have the batch of z0 first, ({z0.shape[0]}, ...); "
                f"got shape {tuple(tensor.shape)}."
            )


def _describe(z0: object) -> str:
    return f"a tensor of {z0.dtype}" if isinstance(z0, Tensor) else type(z0).__name__
