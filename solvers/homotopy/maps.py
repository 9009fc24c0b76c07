"""Homotopies h(z, lambda): equations whose root is known at lambda = 0 and wanted at lambda = 1."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

from torch import Tensor

from ..norms import expand
from ..problem import Equilibrium


@dataclass(frozen=True)
class Homotopy(ABC):
    """A family of fixed-point equations z = h(z, lambda), H(z, lambda) = h(z, lambda) - z.

    h(z, 0) has the start as its root and h(z, 1) = f(z).
    """

    @abstractmethod
    def anchor(self, problem: Equilibrium, z0: Tensor) -> Tensor:
        """Return what the homotopy keeps of the start z0, a tensor (B, ...)."""

    @abstractmethod
    def map(self, problem: Equilibrium, z: Tensor, lam: Tensor, anchor: Tensor) -> Tensor:
        """Evaluate h(z, lam); lam has the shape (B, 1, ...)."""

    def at(self, problem: Equilibrium, lam: Tensor, anchor: Tensor) -> Equilibrium:
        """Return the equation z = h(z, lam) of each sample at its own lam, (B,)."""
        if problem.condition is None:
            level = expand(lam, anchor)
            return Equilibrium(lambda z: self.map(problem, z, level, anchor))

        def deformed(z: Tensor, lam: Tensor, anchor: Tensor, *x: Tensor) -> Tensor:
            return self.map(replace(problem, condition=x), z, expand(lam, z), anchor)

        return Equilibrium(deformed, (lam, anchor, *problem.condition))


@dataclass(frozen=True)
class FixedPoint(Homotopy):
    """The fixed-point homotopy h(z, lambda) = lambda f(z) + (1 - lambda) z0.

    Its path from any start leads to a root for almost every start where f maps a ball into
    itself (the probability-one theorem), with folds perhaps; without folds where ||J|| < 1.

    References:
        S. Chow, J. Mallet-Paret, J. Yorke (1978), Finding zeros of maps.
    """

    def anchor(self, problem: Equilibrium, z0: Tensor) -> Tensor:
        return z0

    def map(self, problem: Equilibrium, z: Tensor, lam: Tensor, anchor: Tensor) -> Tensor:
        return anchor + lam * (problem(z) - anchor)
