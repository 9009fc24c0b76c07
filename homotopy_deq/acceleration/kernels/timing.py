"""Time the ways of one step on this machine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from solvers import Equilibrium, Picard
from solvers.delta import Blocks, DeltaPicard
from solvers.structure import Cached

from ..cost import ALWAYS, Costs, Line, Point
from ..products import Convolution
from .auto import TILES, Auto
from .matrix import changed
from .tiles import SIDE

SIZES = (128, 512, 2048)
BATCHES = (1, 16, 128)
CHANNELS = (16, 64, 128, 256)
IMAGE = 32
SAMPLES = 4
TURN = 2e-3
"""Seconds of a turn, at least: a call that is shorter is timed again in it."""
ROUNDS = 5
"""Turns of each call. The least time of all counts, as others on the machine only add to it."""


def measure(kind: str) -> Sequence[Point]:
    """Return the costs of a kind of product, such as "matrix cpu float32", at all sizes.

    It takes about a second on an idle machine.
    """
    product, device, name = kind.split()
    dtype = getattr(torch, name)
    g = torch.Generator(device).manual_seed(0)

    def make(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=dtype, device=device)

    with torch.no_grad():
        if product in ("matrix", "triton"):
            kernels = Auto(costs=lambda *_: ALWAYS, triton=product == "triton")
            return [_matrix(size, batch, kernels, make) for size in SIZES for batch in BATCHES]
        return [_tiles(channels, product == TILES[True], make) for channels in CHANNELS]


def _matrix(size: int, batch: int, kernels: Auto, make: Callable[..., Tensor]) -> Point:
    weight, r, y = make(size, size) / math.sqrt(size), make(batch, size), make(batch, size)
    whole: Any = kernels.linear(weight)
    few, many = size // 16, size // 2

    def fresh(count: int) -> Callable[[], Any]:
        before = r - _first(r, count)
        product: Any = kernels.linear(weight)

        def call() -> Any:
            product.forget()
            return product.moved(y, before, r)

        return call

    def kept(count: int) -> Callable[[], Any]:
        before, product = r - _first(r, count), kernels.linear(weight)
        return lambda: product.moved(y, before, r)

    def run(count: int) -> Callable[[], Any]:
        return lambda: torch.addmm(y, r[:, :count], weight[:, :count].mT)

    dense, look, plain, followed, *rest = _least(
        lambda: whole.dense(r),
        lambda: int(changed(r - r).sum()),
        *_steps(r),
        *(way(count) for way in (fresh, kept, run) for count in (few, many)),
    )
    fresh_few, fresh_many, kept_few, kept_many, run_few, run_many = rest
    costs = Costs(
        dense,
        max(0.0, followed - plain),
        look,
        _line(few, fresh_few - look, many, fresh_many - look, dense / size),
        _line(few, kept_few - look, many, kept_many - look, dense / size),
        _line(few, run_few, many, run_many, dense / size),
    )
    return Point(batch, size, size, costs)


def _tiles(channels: int, last: bool, make: Callable[..., Tensor]) -> Point:
    weight = make(channels, channels, 3, 3) / math.sqrt(9 * channels)
    convolution = Convolution(weight, padding=(1, 1, 1, 1))
    kernels = Auto(costs=lambda *_: ALWAYS)
    product: Any = kernels.convolution(convolution)
    r = make(SAMPLES, channels, IMAGE, IMAGE).contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )
    y = product.dense(r)
    tiles = SAMPLES * (IMAGE // SIDE) ** 2

    def some(samples: int) -> Callable[[], Any]:
        before = r.clone()
        before[:samples, :, SIDE // 2 :: SIDE, SIDE // 2 :: SIDE] += 1  # within each tile
        return lambda: product.moved(y, before, r)

    one, half = SAMPLES // 4, SAMPLES // 2
    each = tiles // SAMPLES
    dense, plain, followed, quarter, most = _least(
        lambda: product.dense(r), *_steps(r), some(one), some(half)
    )
    line = _line(one * each, quarter, half * each, most, dense / tiles)
    costs = Costs(dense, max(0.0, followed - plain), line.call, *3 * (Line(0.0, line.unit),))
    return Point(1, tiles, weight.numel() * SIDE * SIDE, costs)


class _Nothing:
    """A map whose value costs nothing, so that a step of a solver takes what it takes itself."""

    def __init__(self, z: Tensor) -> None:
        self.image = z / 2

    def __call__(self, z: Tensor, condition: Tensor) -> Tensor:
        return self.image

    def updated(self, last: Cached | None, within: Any, z: Tensor, condition: Tensor) -> Cached:
        """Return the same value; as a layer does, see what has changed."""
        reference = z if last is None else last.parts[0]
        torch.where(within.far(z - reference), z, reference)
        return Cached(self.image, (z,), 0, True)


def _steps(z: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return a plain step of a solver, and one by changes, of a map that costs nothing."""
    problem = Equilibrium(_Nothing(z), (z,))
    plain, delta = Picard(), DeltaPicard(together=Blocks())
    here = plain.init(problem, z)
    state = delta.step(problem, delta.init(problem, z))
    return lambda: plain.step(problem, here), lambda: delta.step(problem, state)


def _first(r: Tensor, count: int) -> Tensor:
    """Return r with every entry 0 but those in `count` columns that are spread evenly."""
    size = r.shape[1]
    index = torch.linspace(0, size - 1, count, device=r.device).long()
    return torch.zeros_like(r).index_copy_(1, index, r.index_select(1, index))


def _line(few: int, low: float, many: int, high: float, share: float) -> Line:
    """Draw the line through the seconds of two counts, whatever noise there is in them.

    A call takes no less than nothing, and a unit no less than its share of the dense product.
    """
    unit = max(share, (high - low) / (many - few))
    return Line(max(0.0, low - unit * few), unit)


def _least(*calls: Callable[[], Any]) -> list[float]:
    """Return the least seconds of each call, of several in each turn."""
    found = [math.inf] * len(calls)
    for call in calls:
        call()
    for _ in range(ROUNDS):
        for k, call in enumerate(calls):
            spent = 0.0
            while spent < TURN:
                seconds = _seconds(call)
                spent += seconds
                found[k] = min(found[k], seconds)
    return found


def _seconds(call: Callable[[], Any]) -> float:
    # One thread's own clock does not run while others on the machine have its core.
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    clock = time.thread_time if alone else time.perf_counter
    begin = clock()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return clock() - begin
