"""Lower bounds of a Lipschitz constant: how tight a proved one is, and never a certificate."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.enable_grad()
def gain_found(
    network: nn.Module, x: Tensor, *, steps: int = 50, distance: float = 0.1, seed: int = 0
) -> Tensor:
    """Search for pairs whose outputs are far apart: ||f(x) - f(x')|| / ||x - x'||, (B,).

    The direction from each x is that of the largest singular value of the Jacobian, by power
    iteration, and the pair is then pushed apart by gradient ascent on the quotient itself.

    Arguments:
        network: maps (B, ...) to (B, ...).
        x: (B, ...), in the network's precision.
        steps: of each of the two searches.
        distance: of the pairs that are tried first, in the 2-norm.
        seed: of the first directions.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)
    v = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    x = x.detach()
    v = _unit(v)
    for _ in range(steps):  # J^T J v: J v as the gradient in u of <u, J> v
        at = x.clone().requires_grad_()
        y = network(at)
        u = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, at, u, create_graph=True)
        (jv,) = torch.autograd.grad(pulled, u, v)
        (pulled,) = torch.autograd.grad(network(at), at, jv)
        alive = (_size(pulled) > 0).view(-1, *(1,) * (x.dim() - 1))  # a dead ReLU leaves nothing
        v = torch.where(alive, _unit(pulled), v)
    best = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    step = v * distance
    rate = distance / 10
    for _ in range(steps):
        step = step.detach().requires_grad_()
        with torch.no_grad():
            here = network(x)
        square = (network(x + step) - here).flatten(1).square().sum(1)
        gain = square / step.flatten(1).square().sum(1)
        best = torch.maximum(best, gain.detach().sqrt())
        (slope,) = torch.autograd.grad(gain.sum(), step)
        step = step + rate * _unit(slope)
    return best


def _size(x: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return size


def _unit(x: Tensor) -> Tensor:
    return x / _size(x).clamp_min(torch.finfo(x.dtype).tiny).view(-1, *(1,) * (x.dim() - 1))
