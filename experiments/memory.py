"""Peak memory of a computation on the CPU, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(compute: Callable[[], object]) -> int:
    """Return how many bytes torch's tensors held at most, beyond those before.

    The sum of all that torch's CPU allocator gave and took back, as its profiler tells of it. It
    is the same each time, where a process's resident memory depends on what ran before. What is
    no tensor, such as the nodes of a graph, is not in it.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as told:
        compute()
    events: Any = told.profiler.kineto_results.events()  # type: ignore[union-attr]
    moves = sorted(
        (each for each in events if each.name() == "[memory]"), key=lambda each: each.start_ns()
    )
    return max(accumulate((each.nbytes() for each in moves), initial=0))
