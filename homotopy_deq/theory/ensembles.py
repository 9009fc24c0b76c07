"""Many random networks at once, without their weight matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .activations import Activation, ReLU

ROOM = {"cpu": 2**20}
"""Numbers of a block of networks' vectors, by device: what a processor's cache holds."""
ELSEWHERE = 2**26
SETTLED = 1e-6
"""Relative change at which a state is at rest: far below what sampling can tell."""
DEPENDENT = 1e-10
"""Share of a vector outside the span of others below which it is taken to be in it."""


@dataclass(frozen=True)
class Ensemble:
    """Random DEQs of a width, evaluated at some inputs.

    Arguments:
        outputs: f, (R, N, K), for R networks.
        nngp: sigma_v^2 h* h*^T / n, (R, N, N).
    """

    outputs: Tensor
    nngp: Tensor


def sample_deqs(
    x: Tensor,
    width: int,
    networks: int,
    *,
    activation: Activation = ReLU(),  # noqa: B008  (frozen)
    sigma_w: float = 0.6,
    sigma_u: float = 1.0,
    sigma_v: float = 1.0,
    outputs: int = 1,
    depth: int | None = None,
    seed: int = 0,
    max_steps: int = 500,
) -> Ensemble:
    """Draw many networks with the law of `sample_deq`'s, in O(N T n) numbers each and not O(n^2).

    The iteration h <- phi(W h + U x) asks W for its products with N T vectors in T steps. A product
    with a unit vector that is orthogonal to all that W was multiplied with before is independent of
    those products, N(0, sigma_w^2 / n) in each coordinate; so it is drawn when it is asked for, and
    W itself never is. Tangent kernels, which need W^T, are `sample_deq`'s.

    Arguments:
        x: (N, n_in); computations are in double precision.
        width: n.
        networks: R.
        activation: as in `DEQKernel`.
        sigma_w: as in `DEQKernel`.
        sigma_u: as in `DEQKernel`.
        sigma_v: as in `DEQKernel`.
        outputs: K.
        depth: layers of the explicit network with injection and shared weights; None for the
            equilibrium.
        seed: of all weights.
        max_steps: of the iteration.

    Raises:
        ValueError: some network's iteration does not settle, as where sigma_w is too large.

    References:
        E. Bolthausen (2014), An iterative construction of solutions of the TAP equations for the
        Sherrington-Kirkpatrick model.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)
    x, parts, moved = x.double(), [], 0.0
    steps = min(depth or 32, 32)  # a guess at how many there will be
    for size in _blocks(networks, width * max(len(x) * steps, x.shape[1]), x.device):

        def normal(*shape: int, scale: float = 1.0) -> Tensor:
            drawn = torch.randn(*shape, generator=generator, dtype=x.dtype, device=x.device)
            return drawn.mul_(scale)

        u = normal(size, width, x.shape[1], scale=sigma_u / math.sqrt(x.shape[1]))  # noqa: B023
        given = x @ u.mT
        h = activation(given)
        asked = torch.empty(size, 0, width, dtype=x.dtype, device=x.device)
        told = asked
        for _ in range(max_steps if depth is None else depth - 1):
            inside, new, length = _split(asked, h)
            fresh = normal(size, len(x), width, scale=sigma_w / math.sqrt(width))
            after = activation(inside @ told + length @ fresh + given)
            asked, told = torch.cat((asked, new), 1), torch.cat((told, fresh), 1)
            moved = float(((after - h).norm(dim=2) / h.norm(dim=2).clamp_min(1e-300)).amax())
            h = after
            if moved < SETTLED:  # nor do deeper layers
                break
        else:
            if depth is None:
                raise ValueError(
                    f"a network moves by {moved:.1e} after {max_steps} steps: take a smaller "
                    "sigma_w, or a depth."
                )
        v = normal(size, outputs, width, scale=sigma_v / math.sqrt(width))
        parts.append((h @ v.mT, sigma_v**2 / width * (h @ h.mT)))
    return Ensemble(*(torch.cat(each) for each in zip(*parts, strict=True)))


def sample_mlps(
    x: Tensor,
    width: int,
    depth: int,
    networks: int,
    *,
    activation: Activation = ReLU(),  # noqa: B008
    sigma_w: float = 1.0,
    sigma_u: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Draw h h^T / n of many plain networks, (R, N, N), with the law of `sample_mlp`'s.

    Given the states of a layer, those of the next are normal with their products as covariance.

    Arguments:
        x: inputs, (N, d).
        width: as in `sample_mlp`.
        depth: as in `sample_mlp`.
        networks: R.
        activation: as in `sample_mlp`.
        sigma_w: as in `sample_mlp`.
        sigma_u: as in `sample_mlp`.
        seed: as in `sample_mlp`.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)
    x, parts = x.double(), []
    for size in _blocks(networks, width * len(x), x.device):
        h, scale = x.expand(size, -1, -1), sigma_u
        for _ in range(depth):
            values, vectors = torch.linalg.eigh(h @ h.mT / h.shape[2])
            root = vectors * values.clamp_min(0).sqrt()[:, None]
            shape = (size, len(x), width)
            z = torch.randn(*shape, generator=generator, dtype=x.dtype, device=x.device)
            h, scale = activation(scale * root @ z), sigma_w
        parts.append(h @ h.mT / width)
    return torch.cat(parts)


def _blocks(networks: int, numbers: int, device: torch.device) -> list[int]:
    """Return the sizes of blocks of networks, each of so many numbers."""
    if networks < 1:
        raise ValueError(f"networks must be at least 1; got {networks}.")
    room = ROOM.get(device.type, ELSEWHERE)
    block = max(1, min(networks, room // max(numbers, 1)))
    return [min(block, networks - first) for first in range(0, networks, block)]


def _split(basis: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors' coordinates in an orthonormal basis (R, k, n), (R, N, k), an orthonormal
    basis of what is left of them, (R, N, n), 0 where nothing is, and coordinates in it, (R, N, N).
    """
    inside, rest = _project(basis, h)
    new, length = torch.zeros_like(h), torch.zeros_like(h[..., : h.shape[1]])
    for i in range(h.shape[1]):
        share, row = _project(new[:, :i], rest[:, i : i + 1])
        norm = row.norm(dim=2, keepdim=True)
        apart = norm > DEPENDENT * h[:, i : i + 1].norm(dim=2, keepdim=True)
        new[:, i : i + 1] = torch.where(apart, row / norm.clamp_min(1e-300), 0.0)
        length[:, i : i + 1, :i] = share
        length[:, i, i] = torch.where(apart, norm, 0.0)[:, 0, 0]
    return inside, new, length


def _project(basis: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return coordinates in an orthonormal basis, and what is left: twice is enough (B. Parlett,
    The symmetric eigenvalue problem, 6.9)."""
    share = rows @ basis.mT
    rest = rows - share @ basis
    again = rest @ basis.mT
    return share + again, rest - again @ basis
