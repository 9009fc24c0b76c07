"""Phantom gradients."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..problem import Equilibrium
from .gradient import RootGradient


@dataclass(frozen=True)
class Phantom(RootGradient):
    """Differentiate a few damped steps taken at the root, and nothing before them.

    From z* (constant) do `steps` times z <- z + damping (f(z) - z); backward goes through these
    steps: the truncated Neumann series of the implicit gradient, an approximation. One step with
    damping 1 is the Jacobian-free gradient (JFB).

    Arguments:
        steps: number of steps, at least 1.
        damping: length of each, in (0, 1].

    References:
        Z. Geng et al. (2021), On training implicit models. S. W. Fung et al. (2022), JFB.
    """

    steps: int = 1
    damping: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1; got {self.steps}.")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1]; got {self.damping}.")

    def at(self, problem: Equilibrium, z: Tensor) -> Tensor:
        root = z
        for _ in range(self.steps):
            z = z + self.damping * (problem(z) - z)
        return root + (z - z.detach())
