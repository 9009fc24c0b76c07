"""The implicit function theorem."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..anderson import Anderson
from ..driver import check_kind
from ..problem import Equilibrium
from ..solver import Solver, named
from .function import attach
from .gradient import RootGradient


@dataclass(frozen=True)
class Implicit(RootGradient):
    """Differentiate the equation at its root, whatever path led there.

    For a cotangent v the gradient in a parameter is u^T df/dparameter, where

        u = J^T u + v,   J = df/dz at z*,

    is an `Equilibrium` itself: any solver answers it, to its tolerance relative to u. Memory does
    not grow with the steps forward. Right under second derivatives, in eval mode, and for a layer
    used twice before backward.

    Arguments:
        solver: solver of the linear equation above. A splitting, which the equation of a
            `MonotoneInclusion` admits, solves `MonotoneInclusion.adjoint` at its proved rate.

    References:
        S. Bai, J. Z. Kolter, V. Koltun (2019), Deep equilibrium models.
    """

    solver: Solver[Equilibrium, Any] = field(default_factory=lambda: Anderson(rtol=1e-6))

    def __post_init__(self) -> None:
        if not isinstance(self.solver, Solver) or not issubclass(self.solver.answers, Equilibrium):
            raise TypeError(
                "Implicit solves u = J^T u + v by a solver of an Equilibrium such as Anderson(); "
                f"got {named(self.solver)}."
            )

    def at(self, problem: Equilibrium, z: Tensor) -> Tensor:
        check_kind(problem, self.solver)
        return attach(problem, z, self.solver)
