"""Classical continuation problems, as families of fixed-point equations z = h(z, lambda).

The discretised boundary value problems are inverted once, u = lambda G s(u) with G = (-Laplace)^-1:
the same roots and folds as the difference equations, and Jacobians that GMRES likes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from solvers import Equilibrium
from solvers.homotopy import Family

DTYPE = torch.float64


def second_difference(n: int) -> Tensor:
    """Return -d^2/dx^2 on n interior points of [0, 1], 3-point differences, (n, n)."""
    off = torch.ones(n - 1, dtype=DTYPE)
    two = torch.full((n,), 2.0, dtype=DTYPE)
    return (torch.diag(two) - torch.diag(off, 1) - torch.diag(off, -1)) * (n + 1) ** 2


def chebyshev(n: int) -> Tensor:
    """Return -d^2/dx^2 by collocation in n + 1 Chebyshev points of [0, 1], interior part.

    L. N. Trefethen (2000), Spectral methods in MATLAB, program 6.
    """
    k = torch.arange(n + 1, dtype=DTYPE)
    x = torch.cos(math.pi * k / n)
    c = torch.ones(n + 1, dtype=DTYPE)
    c[0] = c[-1] = 2
    c = c * (-1) ** k
    gaps = x[:, None] - x[None] + torch.eye(n + 1, dtype=DTYPE)
    d = c[:, None] / c[None] / gaps
    d = d - torch.diag(d.sum(1))
    return -4 * (d @ d)[1:-1, 1:-1]  # 4: [-1, 1] is twice as long as [0, 1]


def bratu(laplacian: Tensor) -> Family:
    """Return u'' + lambda e^u = 0, u = 0 at both ends, for z = u, (B, n)."""
    green = torch.linalg.inv(laplacian)
    return Family(lambda u, lam: lam * (u.exp() @ green.T))


def bratu_square(laplacian: Tensor) -> Family:
    """Return u_xx + u_yy + lambda e^u = 0 on the unit square, z = u, (B, n, n).

    The Laplacian is inverted in the eigenvectors of its one-dimensional part.
    """
    values, vectors = torch.linalg.eig(laplacian)
    values, vectors = values.real, vectors.real
    inverse = torch.linalg.inv(vectors)
    sums = values[:, None] + values[None]

    def h(u: Tensor, lam: Tensor) -> Tensor:
        return lam * (vectors @ ((inverse @ u.exp() @ inverse.T) / sums) @ vectors.T)

    return Family(h)


def chan(n: int, edge: float, b: float = 0.01) -> Family:
    """Return T'' + alpha (1 + (T + T^2/2) / (1 + b T^2)) = 0, T = edge at both ends.

    n points with both ends; z holds the n - 2 interior ones. T. F. Chan, H. B. Keller (1982).
    """
    green = torch.linalg.inv(second_difference(n - 2))

    def h(t: Tensor, alpha: Tensor) -> Tensor:
        return edge + alpha * ((1 + (t + t * t / 2) / (1 + b * t * t)) @ green.T)

    return Family(h)


def chandrasekhar(n: int) -> Family:
    """Return Chandrasekhar's H equation, H = 1 / (1 - c/2 sum_j w_j mu_i H_j / (mu_i + mu_j)).

    Midpoint rule with n points; lambda is c.
    """
    mu = (torch.arange(n, dtype=DTYPE) + 0.5) / n
    kernel = mu[:, None] / (mu[:, None] + mu[None]) / (2 * n)
    return Family(lambda z, c: 1 / (1 - c * (z @ kernel.T)))


def s_curve(a: float, n: int = 1) -> Family:
    """Return z = tanh(a z + lambda); in n dimensions with W = (a / n) 1 1^T."""
    return Family(lambda z, lam: torch.tanh(a * z.mean(1, keepdim=True).expand_as(z) + lam))


def cubic() -> Family:
    """Return u^3 - 3u = -3 + 6 lambda."""
    return Family.of_residual(lambda u, lam: u**3 - 3 * u - (-3 + 6 * lam))


def freudenstein_roth() -> Equilibrium:
    """Return Freudenstein and Roth's two equations, root (5, 4), as z = z - F(z)."""

    def f(z: Tensor) -> Tensor:
        x, y = z[:, :1], z[:, 1:]
        return z - torch.cat(
            (-13 + x + ((5 - y) * y - 2) * y, -29 + x + ((y + 1) * y - 14) * y), dim=1
        )

    return Equilibrium(f)


def parabola() -> Equilibrium:
    """Return x^2 = 1 as z = z - (z^2 - 1)."""
    return Equilibrium(lambda z: z - (z * z - 1))
