"""A family of fixed-point equations z = h(z, lambda): what a path is followed through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..norms import expand
from ..problem import Equilibrium, Map, check_start


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
        if out.shape != z.shape:
            raise ValueError(
                f"The map of a Family must return the shape of its state; got "
                f"{tuple(out.shape)} for a state of shape {tuple(z.shape)}."
            )
        return out if out.dtype == z.dtype else out.to(z.dtype)

    def at(self, lam: Tensor) -> Equilibrium:
        """Return the equation z = h(z, lam) of each sample at its own lam, (B,)."""
        if self.condition is None:
            return Equilibrium(lambda z: self(z, lam))

        def fixed(z: Tensor, lam: Tensor, *condition: Tensor) -> Tensor:
            return self.map(z, expand(lam, z), *condition)

        return Equilibrium(fixed, (lam, *self.condition))

    def rows(self, index: Tensor) -> Family:
        """Return the family of the samples `index` (int64) alone."""
        if self.condition is None:
            return self
        return replace(self, condition=tuple(x.index_select(0, index) for x in self.condition))

    def check(self, z0: Tensor) -> None:
        """Raise ValueError unless z0 is a state that fits the condition."""
        check_start(Equilibrium(self.map, self.condition), z0)


@dataclass(frozen=True)
class _Shifted:
    residual: Callable[..., Tensor]

    def __call__(self, z: Tensor, lam: Tensor, *condition: Tensor) -> Tensor:
        return torch.add(z, self.residual(z, lam, *condition))
