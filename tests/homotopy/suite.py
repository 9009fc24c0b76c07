"""Random equilibria of growing gain."""

from __future__ import annotations

import torch
from torch import Tensor

from solvers import Equilibrium


def tanh_suite(
    gain: float, n: int = 50, draws: int = 10, dtype: torch.dtype = torch.float64
) -> tuple[Equilibrium, Tensor]:
    """Return z = tanh(W z + b) with W_ij ~ N(0, gain^2 / n) and b ~ N(0, 1/4), from 0."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(draws, n, n, generator=generator, dtype=dtype) * gain / n**0.5
    b = torch.randn(draws, n, generator=generator, dtype=dtype) * 0.5
    return Equilibrium(cell, (w, b)), torch.zeros(draws, n, dtype=dtype)


def cell(z: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return torch.tanh(torch.bmm(w, z[:, :, None])[:, :, 0] + b)
