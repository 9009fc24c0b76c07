"""Histories that a solver keeps: m slots a sample, (B, m, ...) or (m, B, ...)."""

from __future__ import annotations

import torch
from torch import Tensor


def write(buffer: Tensor, slot: int, value: Tensor | float, dim: int = 1) -> Tensor:
    """Put a value into a slot, in place unless autograd or a compiler is watching."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        buffer = buffer.clone()
    buffer.select(dim, slot)[...] = value
    return buffer


def chosen(buffer: Tensor, index: Tensor, used: int) -> Tensor:
    """Return the samples `index` of a buffer, (m, B, n); of its slots the first `used` have values.

    Nothing is written in place while autograd or a compiler is watching: all slots are copied then.
    """
    if used >= len(buffer) or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return buffer.index_select(1, index)
    some = buffer.new_empty(len(buffer), len(index), buffer.shape[2])
    torch.index_select(buffer[:used], 1, index, out=some[:used])
    return some
