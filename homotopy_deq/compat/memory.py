"""torchdeq's recomputation of activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.checkpoint import checkpoint


def mem_gc(func: Callable[..., Any], in_args: Sequence[Tensor | None] | None = None) -> Any:
    """Call f and keep no activation: the backward pass calls it again.

    Arguments:
        func: a module, or any map that draws no random numbers after its first call.
        in_args: its arguments.
    """
    return checkpoint(func, *(in_args or ()), use_reentrant=False)
