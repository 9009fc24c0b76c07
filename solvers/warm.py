"""Starts for many solves that are near one that is done."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .inclusion import MonotoneInclusion
from .jacobian import Linearization
from .linear import INVERSE
from .norms import relative
from .problem import Equilibrium
from .solution import Solution, Trajectory
from .solver import Evaluated


@dataclass(frozen=True)
class Anchor:
    """A solved problem from which nearby ones start.

    The solution of z = f(z; x + e) is z*(x + e) = z*(x) + (I - J)^-1 J_x e + O(e^2): the anchor is
    its zero-order predictor, the tangent of the homotopy in the input its first-order one.

    Arguments:
        value: z*(x), (1, ...).
        inverse: (I - J)^-1 at z*(x), (n, n); None where only the zero-order start is wanted.
        product: W z*(x) of a `MonotoneInclusion`, (1, ...): its map at z*(x) is then known for
            any condition without another product.
        path: the states on the way to z*(x), where they were recorded.
    """

    value: Tensor
    inverse: Tensor | None = None
    path: Trajectory[Tensor] | None = None
    product: Tensor | None = None

    @classmethod
    def at(
        cls, problem: Equilibrium, solution: Solution[Tensor], *, tangent: bool = False
    ) -> Anchor:
        """Return the anchor of a solved problem of one sample.

        Arguments:
            problem: of one sample.
            solution: its solution.
            tangent: invert I - J, for `tangent` starts: n Jacobian products and n^3 work, once.

        Raises:
            ValueError: there is not one sample, it did not converge, or n is above `INVERSE`.
        """
        value = solution.value.detach()
        if value.shape[0] != 1:
            raise ValueError(f"an anchor is one solved sample; got {value.shape[0]}.")
        if not bool(solution.converged.all()):
            raise ValueError(f"an anchor must be a solution. {solution.report()}")
        product = problem.linear(value) if isinstance(problem, MonotoneInclusion) else None
        anchor = cls(value, None, solution.trajectory, product)
        return anchor.tangential(problem) if tangent else anchor

    def tangential(self, problem: Equilibrium) -> Anchor:
        """Return the same anchor with (I - J)^-1 of its problem."""
        return replace(self, inverse=_inverse(problem, self.value))

    @property
    def evaluations(self) -> int:
        """Evaluations of the map that `image` takes, a sample."""
        return 0 if self.product is not None else 1

    def constant(self, batch: int) -> Tensor:
        """Return z*(x) for each sample, (batch, ...): the zero-order start."""
        return self.value.expand(batch, *self.value.shape[1:]).clone()

    def image(self, problem: Equilibrium) -> Tensor:
        """Return f(z*; x_i), (B, ...): a Picard step on from the zero-order start.

        For a `MonotoneInclusion` it is prox(W z* + x_i) and W z* is there already.
        """
        if self.product is not None and isinstance(problem, MonotoneInclusion):
            return problem.project(self.product + problem.x)
        return problem(self.constant(len(problem.inputs[0])))

    def evaluated(self, problem: Equilibrium) -> Evaluated:
        """Return z*(x) and f(z*; x_i) of each sample, as a solve that starts there would."""
        image = self.image(problem)
        z = self.value.expand_as(image)
        return Evaluated(z, relative(image - z, image), image)

    def tangent(self, problem: Equilibrium) -> Tensor:
        """Return z* + (I - J)^-1 (f(z*; x_i) - z*), (B, ...): the first-order start.

        f(z*; x_i) - z* is J_x (x_i - x) to first order, and the whole a step of Newton's chord
        method: it costs one evaluation and a product with a matrix that all samples share.
        """
        if self.inverse is None:
            raise ValueError("this anchor was made without its tangent: Anchor.at(tangent=True).")
        image = self.image(problem)
        gap = (image - self.value).flatten(1)
        return self.value + (gap @ self.inverse.mT).view_as(image)

    def along(self, time: float, batch: int) -> Tensor:
        """Return the last recorded state at or before a time (t or lambda), (batch, ...)."""
        if self.path is None or self.path.time is None:
            raise ValueError("this anchor has no recorded path with times: solve with record=True.")
        times = self.path.time[:, 0]
        before = torch.nonzero(times <= time)
        if before.numel() == 0:
            raise ValueError(
                f"the recorded path begins at {float(times[0]):g}; nothing is stored at {time:g}."
            )
        z = self.path.z[int(before[-1])]
        return z.expand(batch, *z.shape[1:]).clone()


def _inverse(problem: Equilibrium, z: Tensor) -> Tensor:
    """Return (I - J)^-1 of one sample, (n, n), J = df/dz at z, (1, ...)."""
    n = z[0].numel()
    if n > INVERSE:
        raise ValueError(
            f"the tangent start inverts an n x n matrix for states of n <= {INVERSE} numbers; this "
            f"one has {n}. Use the zero-order start."
        )
    with torch.no_grad():
        jacobian = Linearization(problem, z, condition=problem.condition).matrix()[0]
    eye = torch.eye(n, dtype=torch.float64, device=z.device)
    inverse: Tensor = torch.linalg.inv(eye - jacobian.double()).to(z.dtype)
    return inverse
