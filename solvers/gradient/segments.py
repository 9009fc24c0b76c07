"""Steps of a solve whose graph keeps no values: a backward pass computes them again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, NoReturn, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import get_device_states, set_device_states

from ..norms import norm
from ..solver import Solver, State

Kind: TypeAlias = tuple[torch.Size, torch.dtype, int]
"""What a saved tensor must be when it is computed again; how often it was written to."""

Random: TypeAlias = tuple[Tensor, list[int], list[Tensor]]
"""States of the generators of random numbers: the CPU's, and those of some devices."""


class Segments:
    """Take a solver's steps such that their graph is cut into segments.

    The graph of all steps is there. But of what its nodes save, nothing is kept beyond a step; of
    each segment the state at its start is. A backward pass that comes to a segment takes its
    steps again, with the random numbers that they drew, and lets go of the segment after it.

    Arguments:
        length: steps of a segment. One is shorter where samples leave the batch.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.last: State | None = None  # what the last step returned
        self.segment: _Segment | None = None
        self.number = 0
        self.again = _Again()

    def __call__(self, solver: Solver[Any, Any], problem: Any, state: Any) -> Any:
        """Return the state one step on."""
        segment = self.segment
        if segment is None or state is not self.last or segment.steps == self.length:
            self.number += 1
            random = _same(None if segment is None else segment.random, state.z)
            segment = _Segment(self.number, solver, problem, state, random, self.again)
        self.segment = segment
        self.last = segment.step(state)
        return self.last


class _Again:
    """The values of the one segment that has been computed again."""

    def __init__(self) -> None:
        self.number = 0
        self.values: list[Tensor] = []


class _Segment:
    """Some steps, and what it takes to take them again.

    Arguments:
        number: which.
        solver: takes the steps.
        problem: of the samples that run.
        state: at the start, whose graph is left.
        random: what the generators of random numbers were at then.
        again: shared by all segments of a solve.
    """

    def __init__(
        self,
        number: int,
        solver: Solver[Any, Any],
        problem: Any,
        state: State,
        random: Random,
        again: _Again,
    ) -> None:
        self.number, self.solver, self.problem, self.again = number, solver, problem, again
        self.start = _leaf(state, {})
        self.steps = 0
        self.kinds: list[Kind] = []  # of all tensors that the nodes save, in this order
        self.fresh: dict[int, Tensor] = {}  # those of the step that is being taken
        self.size = torch.empty(0)  # of the states at the end
        self.random = random

    def step(self, state: State) -> State:
        """Return the state one step on, its graph without values."""
        with saved_tensors_hooks(self._pack, self._unpack):
            state = self.solver.step(self.problem, state)
        self.fresh.clear()
        self.steps += 1
        self.size = norm(state.z.detach())
        return state

    def _pack(self, tensor: Tensor) -> int:
        self.kinds.append(_kind(tensor))
        place = len(self.kinds) - 1
        self.fresh[place] = tensor.detach()
        return place

    def _unpack(self, place: int) -> Tensor:
        if place in self.fresh:  # by a derivative that the step itself takes
            return self.fresh[place]
        if self.again.number != self.number:
            self.again.values = []  # first, as memory is what this is about
            self.again.values, self.again.number = self._values(), self.number
        value = self.again.values[place]
        if value._version != self.kinds[place][2]:  # since they were computed again
            self._refuse()
        return value

    def _values(self) -> list[Tensor]:
        """Return what the nodes saved, by taking the steps again."""
        values: list[Tensor] = []
        kinds: list[Kind] = []

        def keep(tensor: Tensor) -> int:
            kinds.append(_kind(tensor))
            values.append(tensor.detach())
            return len(values) - 1

        state = self.start
        off = torch.autocast(state.z.device.type, enabled=False)  # as in the loop
        hooks = saved_tensors_hooks(keep, values.__getitem__)
        with torch.enable_grad(), off, _drawn_from(*self.random), hooks:
            for _ in range(self.steps):
                state = self.solver.step(self.problem, state)
        self._check(kinds, norm(state.z.detach()))
        return values

    def _check(self, kinds: list[Kind], size: Tensor) -> None:
        if kinds != self.kinds and [kind[:2] for kind in kinds] == [
            kind[:2] for kind in self.kinds
        ]:
            self._refuse()
        near = math.sqrt(torch.finfo(size.dtype).eps)
        if kinds != self.kinds or not torch.allclose(size, self.size, near, 0.0, equal_nan=True):
            raise RuntimeError(
                "The map gives other values when Unroll(checkpoint=...) takes the steps again: it "
                "draws random numbers outside of torch, keeps something between its calls, or its "
                "parameters were frozen since. Make it a function of its arguments, freeze after "
                "backward(), or use Unroll()."
            )

    def _refuse(self) -> NoReturn:
        raise RuntimeError(
            "A tensor that the steps use was written to after the solve (by an optimizer's "
            "step, or in place), so that Unroll(checkpoint=...) cannot take them again. Call "
            "backward() before it."
        )


def _kind(tensor: Tensor) -> Kind:
    return tensor.shape, tensor.dtype, tensor._version


def _leaf(state: Any, made: dict[int, Any]) -> Any:
    """Return the state without its graph, tensors requiring a gradient where they did.

    Arguments:
        state: a state, or what one holds.
        made: what was made of its tensors so far: one that it holds twice stays one.
    """
    if isinstance(state, Tensor):
        if id(state) not in made:
            made[id(state)] = state.detach().requires_grad_(state.requires_grad)
        return made[id(state)]
    if not isinstance(state, State):
        return state
    each = {one.name: _leaf(getattr(state, one.name), made) for one in fields(state)}
    return replace(state, **each)


def _same(last: Random | None, like: Tensor) -> Random:
    """Return the generators' states: `last`, to keep it once, if they have not changed."""
    state, (devices, states) = torch.get_rng_state(), get_device_states(like)
    if last is not None and not devices and torch.equal(state, last[0]):
        return last
    return state, list(devices), list(states)


@contextmanager
def _drawn_from(state: Tensor, devices: list[int], states: list[Tensor]) -> Iterator[None]:
    """Have those random numbers drawn that come after these states of the generators."""
    with torch.random.fork_rng(devices):
        torch.set_rng_state(state)
        set_device_states(devices, states)
        yield
