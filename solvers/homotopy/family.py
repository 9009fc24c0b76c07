"""A family of fixed-point equations z = h(z, lambda): what a path is followed through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..guard import Guard
from ..norms import expand
from ..problem import Equilibrium, Map, check_start, checked
from ..rows import Embedded, select


@dataclass(frozen=True)
class Family:
    """The equations z = h(z, lambda, *condition), one for each lambda.

    Arguments:
        map: h(z, lam, *condition) -> Tensor of z's shape, (B, ...); lam is (B, 1, ...). Row i
            of the output depends on row i of each argument alone.
        condition: tensors (B, ...) that h receives beside z and lam; with `None` h closes over
            what it needs and always runs on the full batch.
    """

    map: Map
    condition: tuple[Tensor, ...] | None = ()

    @staticmethod
    def of_residual(residual: Map, condition: tuple[Tensor, ...] | None = ()) -> Family:
        """Return the family of the equations H(z, lam, *condition) = 0, h(z, lam) = z + H(z, lam).

        The flow whose stability `trace` reports is z' = H(z, lam).
        """
        return Family(_Shifted(residual), condition)

    def __call__(self, z: Tensor, lam: Tensor) -> Tensor:
        """Evaluate h(z, lam) with each sample at its own lam, (B,)."""
        out = self.map(z, expand(lam, z), *(self.condition or ()))
        return checked(out, z, "map of a Family")

    def at(self, lam: Tensor) -> Equilibrium:
        """Return the equation z = h(z, lam) of each sample at its own lam, (B,)."""

        def fixed(z: Tensor, lam: Tensor, *condition: Tensor) -> Tensor:
            return self.map(z, expand(lam, z), *condition)

        # The answer at the end of the path is checked, if anything: see `verified`.
        return Equilibrium(fixed, (lam, *(self.condition or ())), rowwise=True)

    def rows(self, index: Tensor) -> Family:
        """Return the family of the samples `index` (int64) alone."""
        return replace(self, condition=select(self.condition or (), index))

    def packed(self, z0: Tensor) -> Family:
        """Return the family with a map that harms nothing and rows that can be selected."""
        if isinstance(self.map, Guard):
            return self
        if self.condition is not None:
            return replace(self, map=Guard(self.map))
        everything = torch.arange(len(z0), device=z0.device)
        return Family(Guard(Embedded(self.map, everything)), (everything,))

    def check(self, z0: Tensor) -> None:
        """Raise ValueError unless z0 is a state that fits the condition."""
        check_start(Equilibrium(self.map, self.condition), z0)


@dataclass(frozen=True)
class _Shifted:
    residual: Callable[..., Tensor]

    def __call__(self, z: Tensor, lam: Tensor, *condition: Tensor) -> Tensor:
        return torch.add(z, self.residual(z, lam, *condition))
