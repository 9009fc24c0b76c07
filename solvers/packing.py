"""The form in which solvers see a problem: one tensor (B, n), a map that harms nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from .guard import Guard
from .problem import Equilibrium, InitialValue, Map, check_start, check_tensor, checked, described
from .rows import Embedded
from .solution import Solution, V
from .transforms import check_untransformed

P = TypeVar("P", Equilibrium, InitialValue)
Unpack = Callable[[Solution[Any]], Solution[Any]]


def pack(
    problem: P, z0: V | Solution[V]
) -> tuple[P, Tensor, Callable[[Solution[Tensor]], Solution[V]]]:
    """Return the problem on one tensor, its start, and the way back to the caller's form."""
    start: Any = z0.value if isinstance(z0, Solution) else z0
    ways: list[Unpack] = []
    check_untransformed(start, problem.condition)
    problem, start = _thawed(problem, start)
    if isinstance(problem.function, Guard):  # packed before
        return problem, start, lambda solution: cast("Solution[V]", solution)
    if isinstance(start, tuple):
        problem, start, way = _joined(problem, start)
        ways.append(way)
    if not isinstance(start, Tensor):
        check_start(problem, start)  # raises, as it is no start
    lowered = _lowered(start.device.type)
    if 0 in start.stride():  # expanded: its elements share memory
        start = start.contiguous()
    if problem.coupled and start.numel() > 0:
        problem, start, way = _as_one_row(problem, start)
        ways.append(way)
    if problem.condition is None and start.dim() > 0:
        problem = _embedded(problem, start)
    trusted = problem.rowwise
    problem = problem.wrapped(lambda function: Guard(function, lowered, trusted=trusted))

    def unpack(solution: Solution[Any]) -> Solution[Any]:
        for way in reversed(ways):
            solution = way(solution)
        return solution

    return problem, start, unpack


def _thawed(problem: P, start: Any) -> tuple[P, Any]:
    """Copy the tensors that were made in inference mode, which no graph may hold, outside of it."""
    parts = (*problem.inputs, *(start if isinstance(start, tuple) else (start,)))
    frozen = any(isinstance(part, Tensor) and part.is_inference() for part in parts)
    if not frozen or torch.is_inference_mode_enabled():
        return problem, start
    return replace(problem, condition=_thaw(problem.condition)), _thaw(start)


def _thaw(value: Any) -> Any:
    if type(value) is tuple:
        return tuple(_thaw(each) for each in value)
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _joined(problem: P, start: tuple[Tensor, ...]) -> tuple[P, Tensor, Unpack]:
    """Join a state's tensors to one, (B, n)."""
    kinds = {
        (t.shape[:1], t.dtype, t.device) if isinstance(t, Tensor) and t.dim() > 1 else None
        for t in start
    }
    if type(start) is not tuple or len(kinds) != 1 or None in kinds:
        raise ValueError(
            "A tuple state needs tensors (B, ...) of one batch size, dtype and device, and is "
            f"neither nested nor named; got {[described(t) for t in start]}. Use t[:, None] for a "
            "number a sample; numbers that are no real ones belong into the condition."
        )
    shapes = [t.shape[1:] for t in start]
    sizes = [shape.numel() for shape in shapes]
    begins = [sum(sizes[:k]) for k in range(len(sizes))]

    def split(flat: Tensor, lead: int = 1) -> tuple[Tensor, ...]:
        return tuple(
            flat.narrow(lead, begin, size).reshape(*flat.shape[:lead], *shape)
            for begin, size, shape in zip(begins, sizes, shapes, strict=True)
        )

    def join(parts: Any, like: tuple[Tensor, ...]) -> Tensor:
        if not isinstance(parts, tuple | list) or len(parts) != len(like):
            got = f"{len(parts)}" if isinstance(parts, tuple | list) else type(parts).__name__
            raise ValueError(f"The map must return {len(like)} tensors; got {got}.")
        each = (
            checked(part, part_of_z, f"map, in part {k},")
            for k, (part, part_of_z) in enumerate(zip(parts, like, strict=True))
        )
        return torch.cat([part.flatten(1) for part in each], dim=1)

    def wrap(function: Map) -> Map:
        first = problem.leads

        def on_flat(*args: Tensor) -> Tensor:
            parts = split(args[first])
            times = (t.view(-1, *(1,) * len(shapes[0])) if t.dim() else t for t in args[:first])
            return join(cast("Any", function)(*times, parts, *args[first + 1 :]), parts)

        return on_flat

    def unpack(solution: Solution[Tensor]) -> Solution[Any]:
        path: Any = solution.trajectory
        if path is not None:
            path = replace(path, z=split(path.z, 2))
        parts: Any = split(solution.value)
        return replace(solution, value=parts, trajectory=path)

    flat = torch.cat([part.flatten(1) for part in start], dim=1)
    return problem.wrapped(wrap), flat, unpack


def _as_one_row(problem: P, start: Tensor) -> tuple[P, Tensor, Unpack]:
    """See the rows of a coupled problem as the one row of a batch of 1."""
    shape, batch = start.shape, start.shape[0]
    first, condition = problem.leads, problem.inputs
    for k, tensor in enumerate(condition):
        check_tensor(tensor, k, "(...)")
    dense = [tensor.layout == torch.strided for tensor in condition]  # others have no rows

    def wrap(function: Map) -> Map:
        def on_one(*args: Tensor) -> Tensor:
            times, z, parts = args[:first], args[first], args[first + 1 :]
            found = []
            for k in range(z.shape[0]):  # one, but for the columns of a Jacobian
                rows, each = z[k].reshape(shape), iter(parts)
                given = (
                    next(each)[k] if own else whole
                    for own, whole in zip(dense, condition, strict=True)
                )
                found.append(checked(function(*times, rows, *given), rows, "map").flatten())
            return torch.stack(found)

        return on_one

    def unpack(solution: Solution[Tensor]) -> Solution[Any]:
        path = solution.trajectory
        if path is not None:
            time = None if path.time is None else path.time.expand(-1, batch)
            path = replace(
                path,
                z=path.z.view(-1, *shape),
                residual=path.residual.expand(-1, batch),
                time=time,
            )
        return replace(
            solution,
            value=solution.value.view(shape),
            status=solution.status.expand(batch),
            steps=solution.steps.expand(batch),
            evals=solution.evals.expand(batch),
            residual=solution.residual.expand(batch),
            bound=solution.bound and solution.bound.each(lambda part: part.expand(batch)),
            trajectory=path,
        )

    parts = None
    if problem.condition is not None:
        parts = tuple(t.unsqueeze(0) for t, own in zip(condition, dense, strict=True) if own)
    one = replace(problem.wrapped(wrap), condition=parts, coupled=False)
    return one, start.reshape(1, -1), unpack


def _embedded(problem: P, start: Tensor) -> P:
    """Give a map that closes over its inputs the numbers of its rows as condition."""
    everything = torch.arange(len(start), device=start.device)
    rows = problem.wrapped(lambda function: Embedded(function, everything))
    return replace(rows, condition=(everything,), everything=everything)


def _lowered(device: str) -> torch.dtype | None:
    """Return what autocast lowers operations to, or None where it is off."""
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
