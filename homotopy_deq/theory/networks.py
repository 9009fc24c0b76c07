"""Finite networks beside their infinite limits: samples of outputs and of kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from solvers import Anderson, Equilibrium, Solver, solve

from .activations import Activation, ReLU


@dataclass(frozen=True)
class DEQSample:
    """One random DEQ of a width, evaluated at some inputs.

    Arguments:
        outputs: f, (N, K).
        nngp: sigma_v^2 phi-features' product h* h*^T / n, (N, N), which the NNGP kernel predicts.
        ntk: the tangent kernel of the first output in the NTK's parametrisation, (N, N).
        residual: the largest relative residual of the states.
    """

    outputs: Tensor
    nngp: Tensor
    ntk: Tensor
    residual: float


def sample_deq(
    x: Tensor,
    width: int,
    *,
    activation: Activation = ReLU(),  # noqa: B008  (frozen)
    sigma_w: float = 0.6,
    sigma_u: float = 1.0,
    sigma_v: float = 1.0,
    outputs: int = 1,
    depth: int | None = None,
    seed: int = 0,
    solver: Solver[Equilibrium, Any] | None = None,
) -> DEQSample:
    """Draw f = V h*, h* = phi(W h* + U x), W ~ N(0, sigma_w^2 / n), as in `DEQKernel`.

    The tangent kernel is exact, by the implicit function theorem: with g = (I - D W^T)^-1 D V^T,
    D = phi'(W h* + U x), the gradients in W, U, V are g h*^T, g x^T and h*, so that

        ntk = (g g^T) o (sigma_w^2 h* h*^T / n + sigma_u^2 x x^T / n_in) + sigma_v^2 h* h*^T / n,

    each V, g scaled to unit variance of its parameters. With `depth` layers the first term is a
    sum over pairs of them, as they share their weights.

    Arguments:
        x: (N, n_in); computations are in its precision.
        width: n.
        outputs: K.
        depth: layers of the explicit network with injection and shared weights; None for the
            equilibrium.
        seed: of the weights.
        solver: of both equilibria; by default Anderson's to 1e-10, or 2e-6 in single precision.

    Raises:
        SolveError: some state was not found, as where sigma_w is too large.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        drawn = torch.randn(rows, columns, generator=generator, dtype=x.dtype, device=x.device)
        return drawn.mul_(scale / math.sqrt(columns))

    w, u = normal(width, width, sigma_w), normal(width, x.shape[1], sigma_u)
    v = normal(outputs, width, sigma_v)
    given = x @ u.mT

    def step(h: Tensor, given: Tensor) -> Tensor:
        return activation(h @ w.mT + given)

    def pull(g: Tensor, slope: Tensor, back: Tensor) -> Tensor:
        return slope * (g @ w + back)  # g = D (W^T g + V^T)

    h = activation(given)
    back = v[:1].expand(len(x), -1)
    solver = solver or Anderson(rtol=max(1e-10, 16 * torch.finfo(x.dtype).eps), max_steps=500)
    if depth is None:
        found = solve(Equilibrium(step, (given,), rowwise=True), solver, h).check()
        h, residual = found.value, float(found.residual.amax()) if len(x) else 0.0
        slope = _slope(activation, h @ w.mT + given)
        adjoint = Equilibrium(pull, (slope, back), rowwise=True)
        read, pulled = [h], [solve(adjoint, solver, slope * back).check().value]
    else:
        residual, read = 0.0, [torch.zeros_like(h)]  # what each layer's W is multiplied with
        for _ in range(depth - 1):
            read.append(h)
            h = step(h, given)
        pulled = []
        for state in reversed(read):
            pulled.insert(0, _slope(activation, state @ w.mT + given) * back)
            back = pulled[0] @ w
    g, total = torch.cat(pulled), torch.stack(pulled).sum(0)
    through = torch.stack(
        [(a @ g.mT) * (b @ torch.cat(read).mT) for a, b in zip(pulled, read, strict=True)]
    )
    ntk = sigma_w**2 / width * through.view(-1, len(x), len(pulled), len(x)).sum((0, 2))
    ntk = ntk + sigma_u**2 / x.shape[1] * (total @ total.mT) * (x @ x.mT)
    nngp = sigma_v**2 * (h @ h.mT) / width
    return DEQSample(h @ v.mT, nngp, ntk + nngp, residual)


def sample_mlp(
    x: Tensor,
    width: int,
    depth: int,
    *,
    activation: Activation = ReLU(),  # noqa: B008
    sigma_w: float = 1.0,
    sigma_u: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Return h h^T / n of a random plain network's last hidden layer, (N, N), as in `MLPKernel`.

    Arguments:
        x: inputs, (N, d).
        width: n, of each hidden layer.
        depth: how many hidden layers.
        activation: as in `MLPKernel`.
        sigma_w: as in `MLPKernel`.
        sigma_u: as in `MLPKernel`.
        seed: of the weights.
    """
    generator = torch.Generator(device=x.device).manual_seed(seed)
    h, scale = x, sigma_u
    for _ in range(depth):
        weight = torch.randn(
            width, h.shape[1], generator=generator, dtype=x.dtype, device=x.device
        ).mul_(scale / math.sqrt(h.shape[1]))
        h, scale = activation(h @ weight.mT), sigma_w
    return h @ h.mT / width


def empirical_ntk(
    network: nn.Module, x1: Tensor, x2: Tensor | None = None, *, output: int = 0, block: int = 64
) -> Tensor:
    """Return the tangent kernel of a network's output at its parameters, (N, M):

        Theta_ij = <df(x1_i)/dtheta, df(x2_j)/dtheta>.

    Gradients are taken sample by sample, so that implicit layers take part, and kept for `block`
    samples of either argument at a time: block times the parameters' memory, twice.

    Arguments:
        network: maps (B, ...) to (B, K).
        x1: (N, ...).
        x2: (M, ...); x1 by default.
        output: which of the K.
        block: samples.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("the network has no parameter that requires a gradient.")

    def gradients(x: Tensor) -> Iterator[Tensor]:
        for chunk in torch.split(x, block):
            rows = []
            for sample in chunk:
                out = network(sample[None])[0, output]
                found = torch.autograd.grad(out, parameters, allow_unused=True)
                rows.append(
                    torch.cat([
                        torch.zeros_like(p).flatten() if g is None else g.flatten()
                        for g, p in zip(found, parameters, strict=True)
                    ])
                )  # fmt: skip
            yield torch.stack(rows)

    others = x1 if x2 is None else x2
    return torch.cat([torch.cat([a @ b.mT for b in gradients(others)], 1) for a in gradients(x1)])


def empirical_nngp(sample: Callable[[int], Tensor], networks: int) -> Tensor:
    """Return the mean of sample(seed) over networks: an estimate of a kernel.

    Arguments:
        sample: maps a seed to a matrix, as `lambda s: sample_deq(x, 1000, seed=s).nngp`.
        networks: how many.
    """
    if networks < 1:
        raise ValueError(f"networks must be at least 1; got {networks}.")
    total = sample(0)
    for seed in range(1, networks):
        total = total + sample(seed)
    return total / networks


def _slope(activation: Activation, u: Tensor) -> Tensor:
    with torch.enable_grad():
        u = u.detach().requires_grad_()
        (slope,) = torch.autograd.grad(activation(u).sum(), u)
    return slope
