"""What torch's compilers and transforms may do with a solve: leave it alone, or be told."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

A = ParamSpec("A")
R = TypeVar("R")

TRANSFORMED = (
    "A solve cannot run under torch.func or vmap (vmap, grad, jvp, jacrev, a vectorized "
    "backward pass): its loop reads numbers. It solves a batch by itself; differentiate with "
    "torch.autograd.grad or torch.autograd.functional, not vectorized."
)
TRACED = (
    "torch.jit.trace, and torch.onnx.export by it, would freeze the number of steps that this one "
    "input takes. Trace the cell, layer.cell, and solve around it."
)
SYMBOLIC = (
    "torch.fx cannot trace a loop over numbers. Give symbolic_trace a Tracer whose is_leaf_module "
    "keeps layers whole."
)
FAKE = (
    "torch.export, and torch.onnx.export by it, runs on fake tensors, which have no numbers to end "
    "a loop by. Export the cell, layer.cell, and solve around it."
)
META = (
    "Tensors on the meta device have no numbers to end a loop by. Build on meta, move with "
    "to_empty(device=...), load the weights, and then solve."
)
DUAL = (
    "Forward-mode AD goes through the steps of Unroll() alone, and none of Flow, RungeKutta, ODE. "
    "For J v of any gradient use torch.autograd.functional.jvp."
)


def uncompiled(function: Callable[A, R]) -> Callable[A, R]:
    """Return the function as one that `torch.compile` calls and does not trace into.

    A loop that ends where the numbers say so is one graph a step, compiled again for each number
    of steps. The compiler is imported only where it is at work already.
    """

    @functools.wraps(function)
    def outside(*args: A.args, **kwargs: A.kwargs) -> R:
        if not torch.compiler.is_compiling():
            return function(*args, **kwargs)
        apart: Callable[A, R] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
        return apart(*args, **kwargs)

    marked: Any = outside  # what torch.compiler.disable marks, so that tracing stops before it
    marked._torchdynamo_disable = True
    marked._torchdynamo_disable_msg = "a solve is a loop over numbers; compile the cell instead"
    return outside


def check_untransformed(*given: object) -> None:
    """Raise NotImplementedError where a loop over numbers cannot run, or would be frozen.

    Arguments:
        *given: the start and the condition of a solve: tensors, and tuples of them. What is
            neither is passed by.
    """
    reason = _around()
    for each in given:
        for one in each if isinstance(each, tuple) else (each,):
            reason = reason or _within(one)
    if reason is not None:
        raise NotImplementedError(reason)


def _around() -> str | None:
    if _transforms_active():
        return TRANSFORMED
    return None if torch._C._get_tracing_state() is None else TRACED


def _within(value: object) -> str | None:
    if not isinstance(value, Tensor):
        return SYMBOLIC if type(value).__module__ == "torch.fx.proxy" else None
    if hasattr(value, "fake_mode"):
        return FAKE
    if value.is_meta:
        return META
    if value.layout == torch.strided and not _has_memory(value):
        return TRANSFORMED
    # Where autograd is on (Unroll) each step carries its tangent.
    return DUAL if not torch.is_grad_enabled() and _tangent(value) is not None else None


def _tangent(tensor: Tensor) -> Tensor | None:
    unpacked: Any = forward_ad.unpack_dual(tensor)  # type: ignore[no-untyped-call]
    tangent: Tensor | None = unpacked.tangent
    return tangent


def _has_memory(tensor: Tensor) -> bool:
    """Return whether a tensor is one, not many at once as in a vectorized backward pass."""
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return True


# torch's own test before each autograd function; where it is gone, vmap's error has to do.
_transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: False
)
