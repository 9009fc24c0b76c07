"""Phantom gradients."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..packing import pack
from ..problem import Equilibrium
from ..solution import Solution, V
from ..solver import Solver
from ..transforms import uncompiled
from .rows import on_usable_rows


@dataclass(frozen=True)
class Phantom:
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

    @uncompiled
    def apply(
        self,
        problem: Equilibrium,
        solver: Solver[Equilibrium, Any],
        z0: V | Solution[V],
        *,
        record: bool = False,
    ) -> Solution[V]:
        """Return the solution with the gradient of the last steps attached to its value."""
        if not isinstance(problem, Equilibrium):
            raise TypeError(
                f"Phantom takes steps at the root of an Equilibrium; got "
                f"{type(problem).__name__}. Use Unroll() or Adjoint()."
            )
        packed, start, unpack = pack(problem, z0)
        with torch.no_grad():
            found = run(packed, solver, start.detach(), record=record)
        if torch.is_grad_enabled():
            found = replace(found, value=on_usable_rows(packed, found, self._attach))
        return unpack(found)

    def _attach(self, problem: Equilibrium, root: Tensor) -> Tensor:
        z = root
        for _ in range(self.steps):
            z = z + self.damping * (problem(z) - z)
        return root + (z - z.detach())
