"""Norms of one sample: over all dimensions but the batch."""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-30  # the least of single precision that is worth a name: below, squares are 0


def norm(z: Tensor) -> Tensor:
    """Return the 2-norm of each sample, (B,), in at least single precision."""
    dtype = torch.float32 if z.dtype.itemsize < 4 else z.dtype
    size: Tensor = torch.linalg.vector_norm(z.flatten(1), dim=1, dtype=dtype)
    return size


def told(*numbers: Tensor) -> tuple[Tensor, ...]:
    """Return numbers, (B,) each, on the host, outside of any graph: a GPU is waited for once."""
    numbers = tuple(each.detach() for each in numbers)
    return numbers if numbers[0].is_cpu else torch.stack(numbers).cpu().unbind()


def finite(z: Tensor) -> Tensor:
    """Return which samples are finite throughout, bool (B,)."""
    return torch.isfinite(z.detach().unsqueeze(-1).flatten(1)).all(1)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each sample, (B,)."""
    product: Tensor = torch.linalg.vecdot(a.flatten(1), b.flatten(1))
    return product


def tiny(dtype: torch.dtype) -> float:
    """Return what no norm need be told from 0 by: its square is still a number."""
    return 1e-150 if dtype == torch.float64 else TINY


def divisor(size: Tensor) -> Tensor:
    """Return norms to divide by, (B,): ||f(z) - z|| / ||f(z)|| is finite at f(z) = 0.

    The floor is no tolerance: near a root that is 0 no relative residual falls, and a solver goes
    on down to it. What says how small is 0 is `atol`.
    """
    return size.clamp_min(tiny(size.dtype))


def relative(residual: Tensor, scale: Tensor) -> Tensor:
    """Return ||residual|| / ||scale|| of each sample, (B,)."""
    return norm(residual) / divisor(norm(scale))


def expand(coefficient: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ...), to multiply a state of `like`'s shape."""
    return coefficient.view(-1, *(1,) * (like.dim() - 1))
