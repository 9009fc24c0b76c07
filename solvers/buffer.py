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
