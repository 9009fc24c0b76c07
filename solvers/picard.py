"""Picard (fixed-point) iteration."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from .problem import Equilibrium
from .solver import Evaluated, Solver, start


@dataclass(frozen=True)
class Picard(Solver[Equilibrium, Evaluated]):
    """Iterate z <- z + damping (f(z) - z).

    Converges where the spectral radius of (1 - damping) I + damping J is below 1: for a
    contraction with damping 1, and for a stable equilibrium of z' = f(z) - z with a small one.
    One evaluation a step.

    Arguments:
        damping: the step beta in (0, 1]; 1 is plain iteration.

    References:
        E. Picard (1890). S. Banach (1922).
    """

    max_steps: int = field(default=200, kw_only=True)
    damping: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1]; got {self.damping}.")

    def init(self, problem: Equilibrium, z0: Tensor) -> Evaluated:
        return start(problem, z0)

    def step(self, problem: Equilibrium, state: Evaluated) -> Evaluated:
        z = state.fz if self.damping == 1 else state.z.lerp(state.fz, self.damping)
        return start(problem, z)
