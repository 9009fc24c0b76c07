"""Random stacks of bounded layers, in double precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from homotopy_deq.lipschitz import AOL, CPL, SLL, Sandwich
from homotopy_deq.lipschitz.blocks import Grid

KINDS = ("cpl", "sll", "aol", "sandwich")


def layer(kind: str, inputs: int, outputs: int, grid: Grid) -> nn.Module:
    """Return a layer; a residual one keeps the number of its inputs and has `outputs` neurons."""
    kernel = 3 if grid is not None and min(grid) >= 3 else 1
    if kind == "cpl":
        return CPL(inputs, outputs, grid=grid, kernel=kernel)
    if kind == "sll":
        return SLL(inputs, outputs, grid=grid, kernel=kernel)
    if kind == "aol":
        return AOL(inputs, outputs, grid=grid, kernel=kernel)
    return Sandwich(inputs, outputs, grid=grid, kernel=kernel)


def stack(kinds: list[str], sizes: list[int], grid: Grid, seed: int) -> nn.Sequential:
    """Return a stack whose parameters are all normal, in double precision."""
    torch.manual_seed(seed)
    made: list[nn.Module] = []
    width = sizes[0]
    for kind, size in zip(kinds, sizes[1:], strict=True):
        made.append(layer(kind, width, size, grid).double())
        width = width if kind in ("cpl", "sll") else size
    network = nn.Sequential(*made)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.7 * torch.randn_like(p))
    return network.eval()


def batch(network: nn.Sequential, count: int = 4, scale: float = 1.0) -> Tensor:
    """Return normal inputs that fit a stack."""
    first = network[0]
    shape = (first.inputs, *(first.grid or ()))  # type: ignore[union-attr]
    return scale * torch.randn(count, *shape, dtype=torch.float64)
