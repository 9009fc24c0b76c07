"""States that are tuples of tensors, seen by the solvers as one tensor (B, n)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from .problem import Equilibrium, InitialValue
from .solution import Solution, Trajectory, V

P = TypeVar("P", Equilibrium, InitialValue)


def pack(
    problem: P, z0: V | Solution[V]
) -> tuple[P, Tensor, Callable[[Solution[Tensor]], Solution[V]]]:
    """Return the problem on one tensor, its start, and the way back to the caller's form."""
    start = z0.value if isinstance(z0, Solution) else z0
    if not isinstance(start, tuple):
        if isinstance(start, Tensor):
            problem = _keep_autocast(problem, start.device.type)
            if 0 in start.stride():  # expanded: its elements share memory
                start = start.contiguous()
        return problem, start, lambda solution: cast("Solution[V]", solution)
    if not start or len({(t.shape[:1], t.dtype, t.device) for t in start}) != 1:
        raise ValueError(
            "A tuple state needs tensors with one batch size, dtype and device; got "
            f"{[(tuple(t.shape), str(t.dtype)) for t in start]}."
        )
    problem = _keep_autocast(problem, start[0].device.type)
    shapes = [t.shape[1:] for t in start]

    def split(flat: Tensor, lead: int = 1) -> tuple[Tensor, ...]:
        parts = torch.split(flat, [s.numel() for s in shapes], dim=lead)
        return tuple(p.reshape(*flat.shape[:lead], *s) for p, s in zip(parts, shapes, strict=True))

    def join(parts: tuple[Tensor, ...]) -> Tensor:
        if len(parts) != len(shapes):
            raise ValueError(f"The map must return {len(shapes)} tensors; got {len(parts)}.")
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    def unpack(solution: Solution[Tensor]) -> Solution[V]:
        path = solution.trajectory
        if path is not None:
            path = cast("Any", replace(cast("Trajectory[Any]", path), z=split(path.z, 2)))
        parts = split(solution.value)
        return cast("Solution[V]", replace(cast("Any", solution), value=parts, trajectory=path))

    if isinstance(problem, Equilibrium):
        f = problem.map
        flat = replace(problem, map=lambda z, *x: join(cast("Any", f(split(z), *x))))
        return flat, join(start), unpack
    g = problem.field
    flat_ivp = replace(problem, field=lambda t, z, *x: join(cast("Any", g(t, split(z), *x))))
    return flat_ivp, join(start), unpack


def _keep_autocast(problem: P, device: str) -> P:
    """Return the problem with a map that computes in the caller's precision wherever it is called.

    The solvers' own arithmetic never runs under autocast, and backward passes run outside it: the
    map alone is in half precision, in all of them.
    """
    if not torch.is_autocast_enabled(device):
        return problem
    dtype = torch.get_autocast_dtype(device)
    function = problem.map if isinstance(problem, Equilibrium) else problem.field

    def cast_map(*args: Tensor) -> Tensor:
        with torch.autocast(device, dtype):
            return function(*args)

    if isinstance(problem, Equilibrium):
        return replace(problem, map=cast_map)
    return replace(problem, field=cast_map)
