"""MINPACK's hard systems F(z) = 0 with their standard starts, to be solved as z = z - F(z).

And those that scipy tests `optimize.root` by, in scipy/optimize/tests/test_nonlin.py.

J. More, B. Garbow, K. Hillstrom (1981), Testing unconstrained optimization software.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

N = 10


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


def rosenbrock(z: Tensor) -> Tensor:
    x, y = z.unbind(1)
    return torch.stack((1 - x, 10 * (y - x * x)), 1)


def powell_singular(z: Tensor) -> Tensor:
    a, b, c, d = z.unbind(1)
    parts = (a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2)
    return torch.stack(parts, 1)


def powell_badly_scaled(z: Tensor) -> Tensor:
    a, b = z.unbind(1)
    return torch.stack((1e4 * a * b - 1, torch.exp(-a) + torch.exp(-b) - 1.0001), 1)


def wood(z: Tensor) -> Tensor:
    a, b, c, d = z.unbind(1)
    s, t = b - a * a, d - c * c
    return torch.stack(
        (
            -200 * a * s - (1 - a),
            200 * s + 20.2 * (b - 1) + 19.8 * (d - 1),
            -180 * c * t - (1 - c),
            180 * t + 20.2 * (d - 1) + 19.8 * (b - 1),
        ),
        1,
    )


def helical_valley(z: Tensor) -> Tensor:
    a, b, c = z.unbind(1)
    turn = torch.atan2(b, a) / (2 * math.pi)
    turn = torch.where(turn < -0.25, turn + 1, turn)  # in [-1/4, 3/4), as MINPACK cuts it
    return torch.stack((10 * (c - 10 * turn), 10 * (torch.hypot(a, b) - 1), c), 1)


def brown_almost_linear(z: Tensor) -> Tensor:
    sums = z + z.sum(1, keepdim=True) - (z.shape[1] + 1)
    return torch.cat((sums[:, :-1], z.prod(1, keepdim=True) - 1), 1)


def discrete_boundary_value(z: Tensor) -> Tensor:
    h = 1 / (z.shape[1] + 1)
    t = h * torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device)
    wide = pad(z, (1, 1))
    return 2 * z - wide[:, :-2] - wide[:, 2:] + h * h / 2 * (z + t + 1) ** 3


def trigonometric(z: Tensor) -> Tensor:
    n, k = z.shape[1], torch.arange(1, z.shape[1] + 1, dtype=z.dtype, device=z.device)
    return n + k - z.sin() - z.cos().sum(1, keepdim=True) - k * z.cos()


def broyden_tridiagonal(z: Tensor) -> Tensor:
    wide = pad(z, (1, 1))
    return (3 - 2 * z) * z - wide[:, :-2] - 2 * wide[:, 2:] + 1


def broyden_banded(z: Tensor) -> Tensor:
    wide = pad(z * (1 + z), (5, 1))  # five neighbours below, one above
    band = wide.unfold(1, 7, 1).sum(2) - z * (1 + z)
    return z * (2 + 5 * z * z) + 1 - band


def watson(z: Tensor) -> Tensor:
    n = z.shape[1]
    t = torch.arange(1, 30, dtype=z.dtype, device=z.device)[:, None] / 29
    k = torch.arange(n, dtype=z.dtype, device=z.device)
    powers = t**k  # (29, n)
    slopes = torch.cat((torch.zeros_like(t), k[1:] * powers[:, :-1]), 1)
    value = z @ powers.mT
    rest = z @ slopes.mT - value**2 - 1
    sums = rest @ slopes - 2 * (rest * value) @ powers
    a, b = z[:, 0], z[:, 1]
    last = b - a * a - 1
    first = torch.stack((a - 2 * a * last, last), 1)
    return sums + pad(first, (0, n - 2))


def chebyquad(z: Tensor) -> Tensor:
    x = 2 * z - 1
    before, here = torch.ones_like(x), x
    means = []
    for k in range(1, z.shape[1] + 1):
        means.append(here.mean(1) + (1 / (k * k - 1) if k % 2 == 0 else 0))
        before, here = here, 2 * x * here - before
    return torch.stack(means, 1)


def pressure_network(z: Tensor) -> Tensor:
    """Four like pipes that share a flow of 4: its Jacobian is singular at scipy's start."""
    pressure = 0.5 * z * z
    return torch.cat((pressure[:, 1:] - pressure[:, :1], z.sum(1, keepdim=True) - 4), 1)


def scipy_sine(z: Tensor) -> Tensor:
    a, b = z.unbind(1)
    v = torch.stack(((a + 3) * (b**5 - 7) + 18, torch.sin(b * torch.exp(a) - 1)), 1)
    j = torch.tensor([[-4.256, 14.7], [0.8394989, 0.59964207]], dtype=z.dtype, device=z.device)
    return -torch.linalg.solve(j, v.mT).mT


def scipy_diagonal(z: Tensor) -> Tensor:
    d = torch.tensor([3, 2, 1.5, 1, 0.5], dtype=z.dtype, device=z.device)
    return -d * z - 0.01 * (z * z).sum(1, keepdim=True) * z


def scipy_linear(z: Tensor) -> Tensor:
    a, b, c = z.unbind(1)
    return torch.stack((b - 2 * a - 1, a - 2 * b + c - 2, b - 2 * c - 3), 1)


_T = [k / (N + 1) for k in range(1, N + 1)]
SYSTEMS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "Rosenbrock": (rosenbrock, row(-1.2, 1)),
    "Powell singular": (powell_singular, row(3, -1, 0, 1)),
    "Powell badly scaled": (powell_badly_scaled, row(0, 1)),
    "Wood": (wood, row(-3, -1, -3, -1)),
    "helical valley": (helical_valley, row(-1, 0, 0)),
    "Brown almost linear": (brown_almost_linear, row(*[0.5] * N)),
    "discrete boundary value": (discrete_boundary_value, row(*[t * (t - 1) for t in _T])),
    "trigonometric": (trigonometric, row(*[1 / N] * N)),
    "Broyden banded": (broyden_banded, row(*[-1.0] * N)),
    "Watson": (watson, row(*[0.0] * 6)),
    "Broyden tridiagonal": (broyden_tridiagonal, row(*[-1.0] * N)),
    "Chebyquad": (chebyquad, row(*[k / 6 for k in range(1, 6)])),
    "scipy's diagonal": (scipy_diagonal, row(*[1.0] * 5)),
    "scipy's identity": (lambda z: z, row(1, 2, 3, 4, 5, 6)),
    "scipy's linear": (scipy_linear, row(1, 2, 3)),
    "scipy's Powell": (powell_badly_scaled, row(-1, -2)),
    "scipy's pressure network": (pressure_network, row(2, 0, 2, 0)),
    "scipy's sine": (scipy_sine, row(-0.5, 1.4)),
}
