"""Activations, with the expectations of their products under Gaussians (dual activations)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

NODES = 160
"""Gauss-Hermite nodes: 80 give 1e-12 for tanh at q = 1, these at q = 10."""
TERMS = 96
"""Terms of the Hermite series; what they leave out is reported, see `Smooth`."""
LOW, MOVED = 20, 1e-7
"""So many terms must not move, with half the nodes, by more than this share of E phi^2."""
LEAST = 1e-12
"""Variance below which phi' is taken to be that at it: its series is a difference over sqrt(q)."""
LEFT_OUT = 5e-6
"""Share of E phi^2 that the series may leave out. It is added as one last term, so that nothing is
missing at full correlation; below it the error is less, as the powers damp the tail."""


class Activation(ABC):
    """A function of one number, with E phi(u) phi(v) and E phi'(u) phi'(v) for Gaussian u, v.

    The duals take variances q1, q2 and the covariance k of (u, v), of shapes that broadcast, and
    return a tensor of the common shape, in double precision.
    """

    @property
    @abstractmethod
    def odd(self) -> bool:
        """Whether phi(-u) = -phi(u), which makes kernels singular at antipodal inputs."""

    @abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """Evaluate phi."""

    @abstractmethod
    def dual(self, q1: Tensor, q2: Tensor, k: Tensor) -> Tensor:
        """Return E phi(u) phi(v)."""

    @abstractmethod
    def dual_slope(self, q1: Tensor, q2: Tensor, k: Tensor) -> Tensor:
        """Return E phi'(u) phi'(v)."""


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """max(u, slope u), slope in [0, 1]; with c = k / sqrt(q1 q2), th = arccos c,

        E phi phi = (1 - slope)^2 sqrt(q1 q2) (sin th + (pi - th) c) / (2 pi) + slope k,
        E phi' phi' = (1 - slope)^2 (pi - th) / (2 pi) + slope.

    Arguments:
        slope: at negative numbers.

    References:
        Y. Cho, L. Saul (2009), Kernel methods for deep learning.
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.slope <= 1:
            raise ValueError(f"slope must be in [0, 1]; got {self.slope}.")

    @property
    def odd(self) -> bool:
        return self.slope == 1

    def __call__(self, u: Tensor) -> Tensor:
        return torch.where(u > 0, u, self.slope * u)

    def dual(self, q1: Tensor, q2: Tensor, k: Tensor) -> Tensor:
        size, c = _correlation(q1, q2, k)
        angle = torch.arccos(c)
        arc = (torch.sqrt((1 - c) * (1 + c)) + (math.pi - angle) * c) / (2 * math.pi)
        return (1 - self.slope) ** 2 * size * arc + self.slope * k

    def dual_slope(self, q1: Tensor, q2: Tensor, k: Tensor) -> Tensor:
        _, c = _correlation(q1, q2, k)
        share = (math.pi - torch.arccos(c)) / (2 * math.pi)
        return (1 - self.slope) ** 2 * share + self.slope


@dataclass(frozen=True)
class ReLU(LeakyReLU):
    """max(u, 0), `LeakyReLU` of slope 0."""

    slope: float = field(default=0.0, init=False)


@dataclass(frozen=True)
class Erf(Activation):
    """The error function; with d = (1 + 2 q1)(1 + 2 q2),

        E phi phi = (2 / pi) arcsin(2 k / sqrt(d)),   E phi' phi' = (4 / pi) / sqrt(d - 4 k^2).

    References:
        C. Williams (1997), Computing with infinite networks.
    """

    @property
    def odd(self) -> bool:
        return True

    def __call__(self, u: Tensor) -> Tensor:
        return torch.erf(u)

    def dual(self, q1: Tensor, q2: Tensor, k: Tensor) -> Tensor:
        size, c = _correlation(q1, q2, k)
        d = (1 + 2 * q1) * (1 + 2 * q2)
        return 2 / math.pi * torch.arcsin(2 * size * c / d.sqrt())

    def dual_slope(self, q1: Tensor, q2: Tensor, k: Tensor) -> Tensor:
        size, c = _correlation(q1, q2, k)
        d = (1 + 2 * q1) * (1 + 2 * q2)
        return 4 / math.pi / (d - 4 * (size * c).square()).sqrt()


@dataclass(frozen=True)
class Smooth(Activation):
    """Any smooth function, by its Hermite series (Mehler's formula): with orthonormal h_n,

        E phi(u) phi(v) = sum_n a_n(q1) a_n(q2) c^n,   a_n(q) = E phi(sqrt(q) x) h_n(x),

    a_n by Gauss-Hermite quadrature. A function with a kink or a jump is refused: half the nodes
    give other a_n, or the series leaves out more than `LEFT_OUT` of E phi^2.

    Arguments:
        function: phi, of a tensor.
        is_odd: whether it is.
        name: what to call it.
    """

    function: Callable[[Tensor], Tensor]
    is_odd: bool = False
    name: str = "function"

    @property
    def odd(self) -> bool:
        return self.is_odd

    def __call__(self, u: Tensor) -> Tensor:
        return self.function(u)

    def dual(self, q1: Tensor, q2: Tensor, k: Tensor) -> Tensor:
        _, c = _correlation(q1, q2, k)
        return _series(self._coefficients(q1), self._coefficients(q2), c)

    def dual_slope(self, q1: Tensor, q2: Tensor, k: Tensor) -> Tensor:
        # phi'(sqrt(q) x) has the coefficients sqrt(n + 1) a_{n+1} / sqrt(q).
        _, c = _correlation(q1, q2, k)
        q1, q2 = q1.clamp_min(LEAST), q2.clamp_min(LEAST)
        n = torch.arange(1, TERMS + 1, dtype=torch.float64, device=c.device)
        first, second = (self._coefficients(q)[..., 1:] * n.sqrt() for q in (q1, q2))
        return _series(first, second, c) / (q1 * q2).sqrt()

    def _coefficients(self, q: Tensor) -> Tensor:
        """Return a_n for each variance, and the root of what they leave out, (..., TERMS + 1)."""
        nodes, table = _hermite(NODES, str(q.device))
        values = self.function(q.sqrt().unsqueeze(-1) * nodes)
        a = values @ table
        fewer, short = _hermite(NODES // 2, str(q.device))
        again = self.function(q.sqrt().unsqueeze(-1) * fewer) @ short[:, :LOW]
        square = values.square() @ table[:, 0]
        left = (square - a.square().sum(-1)).clamp_min(0)
        moved = (a[..., :LOW] - again).square().sum(-1) / MOVED * LEFT_OUT
        doubt = torch.maximum(left, moved) / square.clamp_min(1e-300)
        worst = float(doubt.amax()) if doubt.numel() else 0.0
        if worst > LEFT_OUT:
            raise ValueError(
                f"the Hermite series of {self.name} leaves out {worst:.1e} of its square: it is "
                "not smooth enough, or the variance too large. Use ReLU() or LeakyReLU() for those."
            )
        return torch.cat((a, left.sqrt().unsqueeze(-1)), -1)


def tanh() -> Smooth:
    """Return the hyperbolic tangent."""
    return Smooth(torch.tanh, is_odd=True, name="tanh")


def gelu() -> Smooth:
    """Return u Phi(u), Phi the normal distribution function."""
    return Smooth(torch.nn.functional.gelu, name="gelu")


def _correlation(q1: Tensor, q2: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return sqrt(q1 q2) and the correlation, within [-1, 1].

    What its rounding cannot tell from +-1 is that, from which a chaotic map would draw it away.
    """
    size = (q1 * q2).sqrt().clamp_min(1e-300)
    c = k / size
    return size, torch.where(c.abs() > 1 - 1e-14, c.sign(), c)


def _series(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return sum a_n b_n c^n by Horner's rule."""
    total = torch.zeros_like(c)
    for n in reversed(range(a.shape[-1])):
        total = total.mul_(c).add_(a[..., n] * b[..., n])
    return total


@lru_cache
def _hermite(count: int, device: str) -> tuple[Tensor, Tensor]:
    """Return the nodes (count,), and weights times h_n at them, (count, TERMS); h_0 = 1."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    weights = weights / weights.sum()
    table = np.empty((count, TERMS))
    table[:, 0], table[:, 1] = 1.0, nodes
    for n in range(1, TERMS - 1):
        table[:, n + 1] = (nodes * table[:, n] - math.sqrt(n) * table[:, n - 1]) / math.sqrt(n + 1)
    made = torch.from_numpy(nodes), torch.from_numpy(table * weights[:, None])
    return made[0].to(device), made[1].to(device)
