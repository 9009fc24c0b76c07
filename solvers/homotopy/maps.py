"""Homotopies: rules that embed z = f(z) in a family with a root that is known at lambda = 0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..norms import expand
from ..packing import pack
from ..problem import Equilibrium, Map
from .curve import Family


@dataclass(frozen=True)
class Homotopy(ABC):
    """A rule that makes a family z = h(z, lambda) of an equation, h(z, 1) = f(z).

    `rooted` says that the start is the root of h(z, 0) by construction; where it is not, solvers
    first find that root.
    """

    rooted: ClassVar[bool] = True

    def anchor(self, problem: Equilibrium, z0: Tensor) -> Tensor:
        """Return what the homotopy keeps of the start z0, a tensor (B, ...)."""
        return z0

    @abstractmethod
    def map(self, problem: Equilibrium, z: Tensor, lam: Tensor, anchor: Tensor) -> Tensor:
        """Evaluate h(z, lam); lam has the shape (B, 1, ...)."""

    def family(self, problem: Equilibrium, anchor: Tensor) -> Family:
        """Return the family z = h(z, lambda) for what was kept of the start."""

        def deformed(z: Tensor, lam: Tensor, anchor: Tensor, *x: Tensor) -> Tensor:
            return self.map(replace(problem, condition=x), z, lam, anchor)

        return Family(deformed, (anchor, *problem.inputs))

    def of(self, problem: Equilibrium, z0: Tensor) -> Family:
        """Return the family of a problem and a start, to be traced."""
        packed, start, _ = pack(problem, z0)
        return self.family(packed, self.anchor(packed, start))


@dataclass(frozen=True)
class FixedPoint(Homotopy):
    """The fixed-point homotopy h(z, lambda) = lambda f(z) + (1 - lambda) z0.

    Its path from any start leads to a root for almost every start where f maps a ball into
    itself (the probability-one theorem), with folds perhaps; without folds where ||J|| < 1.

    References:
        S. Chow, J. Mallet-Paret, J. Yorke (1978), Finding zeros of maps.
    """

    def map(self, problem: Equilibrium, z: Tensor, lam: Tensor, anchor: Tensor) -> Tensor:
        return anchor + lam * (problem(z) - anchor)


@dataclass(frozen=True)
class Newton(Homotopy):
    """The Newton homotopy F(z) - (1 - lambda) F(z0) = 0, F(z) = f(z) - z.

    Along it the residual keeps its direction and only shrinks. Where the residual of the start
    is small, so is the deformation.

    References:
        H. Keller (1978), Global homotopies and Newton methods.
    """

    def anchor(self, problem: Equilibrium, z0: Tensor) -> Tensor:
        return problem.residual(z0)

    def map(self, problem: Equilibrium, z: Tensor, lam: Tensor, anchor: Tensor) -> Tensor:
        return problem(z) - (1 - lam) * anchor


@dataclass(frozen=True)
class Convex(Homotopy):
    """The convex homotopy h(z, lambda) = (1 - lambda) g(z) + lambda f(z) from an easy map g.

    Arguments:
        easy: g(z, *condition), with a root that a corrector finds from the start.
    """

    rooted: ClassVar[bool] = False
    easy: Map

    def map(self, problem: Equilibrium, z: Tensor, lam: Tensor, anchor: Tensor) -> Tensor:
        return torch.lerp(problem.apply(self.easy, z), problem(z), lam)


@dataclass(frozen=True)
class Input(Homotopy):
    """The input homotopy h(z, lambda) = f(z, (1 - lambda) x0 + lambda x).

    The start is the equilibrium at the reference x0, or near it: of the input before, as in a
    video or a certificate, or of an input for which the equation is easy.

    Arguments:
        reference: x0 for each tensor of the problem's condition, (B, ...) or (1, ...).

    Raises:
        ValueError: the problem has no condition, or the reference does not fit it.
    """

    rooted: ClassVar[bool] = False
    reference: tuple[Tensor, ...]

    def anchor(self, problem: Equilibrium, z0: Tensor) -> Tensor:
        wanted = [tuple(x.shape) for x in problem.inputs if problem.everything is None]
        given = [tuple(x.shape) for x in self.reference]
        fits = len(given) == len(wanted) and all(
            g[1:] == w[1:] and g[0] in (1, w[0]) for g, w in zip(given, wanted, strict=True)
        )
        if not wanted or not fits:
            raise ValueError(
                "Input needs one reference for each tensor of the problem's condition, with the "
                f"same batch or a batch of 1; got {given} for {wanted}."
            )
        batch = z0.shape[0]
        flat = [x.expand(batch, *x.shape[1:]).reshape(batch, -1) for x in self.reference]
        return torch.cat(flat, dim=1)

    def map(self, problem: Equilibrium, z: Tensor, lam: Tensor, anchor: Tensor) -> Tensor:
        inputs = problem.inputs
        parts = torch.split(anchor, [x[0].numel() for x in inputs], dim=1)
        s = lam.reshape(-1)
        moved = tuple(
            torch.lerp(part.view_as(x), x, expand(s, x).to(x.dtype))
            for part, x in zip(parts, inputs, strict=True)
        )
        return replace(problem, condition=moved)(z)


@dataclass(frozen=True)
class Custom(Homotopy):
    """A user's own family h(z, lambda, *condition), with h(z, 1) = f(z).

    Arguments:
        function: h(z, lam, *condition) -> Tensor of z's shape; lam is (B, 1, ...). For an
            equation in the form H(z, lam) = 0 write h(z, lam) = z + H(z, lam).
    """

    rooted: ClassVar[bool] = False
    function: Map

    def map(self, problem: Equilibrium, z: Tensor, lam: Tensor, anchor: Tensor) -> Tensor:
        return problem.apply(self.function, z, lam)
