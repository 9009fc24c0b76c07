"""The implicit function theorem."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..anderson import Anderson
from ..driver import check_kind, run
from ..packing import pack
from ..problem import Equilibrium
from ..solution import Solution, V
from ..solver import Solver
from ..transforms import uncompiled
from .function import attach
from .rows import on_usable_rows


@dataclass(frozen=True)
class Implicit:
    """Differentiate the equation at its root, whatever path led there.

    For a cotangent v the gradient in a parameter is u^T df/dparameter, where

        u = J^T u + v,   J = df/dz at z*,

    is an `Equilibrium` itself: any solver answers it, to its tolerance relative to u. Memory does
    not grow with the steps forward. Right under second derivatives, in eval mode, and for a layer
    used twice before backward.

    Arguments:
        solver: solver of the linear equation above.

    Raises:
        TypeError: the problem is an `InitialValue`, whose answer satisfies no such equation.

    References:
        S. Bai, J. Z. Kolter, V. Koltun (2019), Deep equilibrium models.
    """

    solver: Solver[Equilibrium, Any] = field(default_factory=lambda: Anderson(rtol=1e-6))

    @uncompiled
    def apply(
        self,
        problem: Equilibrium,
        solver: Solver[Equilibrium, Any],
        z0: V | Solution[V],
        *,
        record: bool = False,
    ) -> Solution[V]:
        """Return the solution with the implicit gradient attached to its value."""
        if not isinstance(problem, Equilibrium):
            raise TypeError(
                "Implicit differentiates z* = f(z*); the answer of an "
                f"{type(problem).__name__} satisfies no such equation. Use Unroll() or Adjoint()."
            )
        check_kind(problem, self.solver)
        packed, start, unpack = pack(problem, z0)
        with torch.no_grad():
            found = run(packed, solver, start.detach(), record=record)
        if torch.is_grad_enabled():
            value = on_usable_rows(packed, found, lambda p, z: attach(p, z, self.solver))
            found = replace(found, value=value)
        return unpack(found)
