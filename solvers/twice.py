"""Maps evaluated such that their graph can be differentiated twice, and in forward mode."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

KERNELS = ("flash_sdp", "mem_efficient_sdp", "cudnn_sdp", "math_sdp")


def as_written() -> AbstractContextManager[object]:
    """Return a context in which compiled functions run as they were written.

    The graph of one bears a single backward pass: it hands the memory that it saved on.
    """
    if "torch._dynamo" not in sys.modules:  # nothing can be compiled
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Evaluate attention by its formula, and compiled functions as they were written.

    The fused kernels of scaled_dot_product_attention have no second derivative and no rule of
    forward mode, and what torch.compile makes has neither. Both are the same function as the
    formula, to rounding. Entered where a map is evaluated for products with its Jacobian; costs
    some microseconds where there is no attention, and no import of the compiler.
    """
    backends = torch.backends.cuda  # these switches are those of the CPU's kernels, too
    before = [bool(getattr(backends, f"{kernel}_enabled")()) for kernel in KERNELS]
    with as_written():
        try:
            for kernel in KERNELS:
                getattr(backends, f"enable_{kernel}")(kernel == "math_sdp")
            yield
        finally:
            for kernel, enabled in zip(KERNELS, before, strict=True):
                getattr(backends, f"enable_{kernel}")(enabled)


def by_formula(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the function, evaluated so that its graph can be differentiated twice."""

    def evaluate(*args: Tensor) -> Tensor:
        with twice_differentiable():
            return function(*args)

    return evaluate
