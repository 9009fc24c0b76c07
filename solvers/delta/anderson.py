"""Anderson acceleration of the entries that still change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..anderson import Anderson, weights
from ..buffer import write
from ..problem import Equilibrium
from ..solver import Solver, residual_norm
from .picard import DeltaPicard
from .state import DeltaState


@dataclass(frozen=True)
class DeltaAndersonState(DeltaState):
    """Beside what `DeltaPicard` keeps: the last m evaluations.

    Arguments:
        images: f(r_i), (B, m, n).
        gaps: F_i = f(r_i) - r_i, (B, m, n).
        void: the slots that hold nothing, or what a sample has forgotten, bool (B, m).
        best: smallest ||F|| since the last restart, (B,).
    """

    images: Tensor
    gaps: Tensor
    void: Tensor
    best: Tensor


@dataclass(frozen=True)
class DeltaAnderson(DeltaPicard):
    """Mix the last iterates on the entries that change by more than the threshold:

        r_i <- (sum alpha_j f(r_j))_i  where |f(r) - r|_i > tau,
        alpha = argmin ||sum alpha_j F_j|| over these entries,   sum alpha_j = 1.

    The entries below the threshold stay, so a step still costs what those that move cost: plain
    Anderson acceleration moves them all. Thresholds, verdicts and bounds are those of
    `DeltaPicard`. A sample whose residual has grown by `growth` over its best forgets its past.

    Arguments:
        memory: number m of evaluations kept; 2 m n numbers a sample.
        growth: residual growth over the best that makes a sample restart.
        regularization: relative increase of the Gram matrix's diagonal, at least 4 ulp.

    References:
        D. G. Anderson (1965), Iterative procedures for nonlinear integral equations.
    """

    memory: int = 5
    growth: float = 2.0
    regularization: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.previous:
            raise ValueError("previous is an option of DeltaPicard alone; leave it out.")
        if self.memory < 1:
            raise ValueError(f"memory must be at least 1; got {self.memory}.")
        if not self.growth > 1:
            raise ValueError(f"growth must be above 1; got {self.growth}.")
        if not 0 <= self.regularization < 1:
            raise ValueError(f"regularization must be in [0, 1); got {self.regularization}.")

    def _plain(self) -> Solver[Equilibrium, Any]:
        return Anderson(
            rtol=self.rtol, atol=self.atol, max_steps=self.max_steps, damping=self.damping,
            memory=self.memory, growth=self.growth, regularization=self.regularization,
        )  # fmt: skip

    def init(self, problem: Equilibrium, z0: Tensor) -> DeltaAndersonState:
        plain = super().init(problem, z0)
        images, gaps = z0.new_zeros(2, len(z0), self.memory, z0[0].numel()).unbind()
        void = z0.new_ones(len(z0), self.memory, dtype=torch.bool)
        return DeltaAndersonState(
            **vars(plain), images=images, gaps=gaps, void=void, best=plain.first
        )

    def _target(
        self, state: DeltaState, change: Tensor, moving: Tensor
    ) -> tuple[Tensor, DeltaState]:
        assert isinstance(state, DeltaAndersonState)  # what `init` returned
        slot = state.count % self.memory
        size = residual_norm(state)
        grew = size > self.growth * state.best
        void = grew[:, None] | state.void
        best = torch.where(grew, size, torch.minimum(size, state.best))
        images = write(state.images, slot, state.fz.flatten(1))
        gaps = write(state.gaps, slot, change.flatten(1))
        void = write(void, slot, False)
        mixed = self._mix(images, gaps, void, moving.expand_as(state.z).flatten(1)).view_as(state.z)
        return mixed, replace(state, images=images, gaps=gaps, void=void, best=best)

    def _mix(self, images: Tensor, gaps: Tensor, void: Tensor, moving: Tensor) -> Tensor:
        """Return sum alpha_j (r_j + damping F_j), (B, n), alpha from the entries that move."""
        active = torch.where(moving[:, None], gaps, 0)
        alpha = weights(active, self.regularization, void)
        z = torch.bmm(alpha, images)
        if self.damping != 1:
            z = torch.baddbmm(z, alpha, gaps, alpha=self.damping - 1)
        return z[:, 0]
