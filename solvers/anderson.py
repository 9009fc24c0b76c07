"""Anderson acceleration."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .norms import TINY, norm
from .problem import Equilibrium
from .solver import Solver, State

VOID = 1e30


@dataclass(frozen=True)
class AndersonState(State):
    """Beside z and f(z): the last m evaluations and the Gram matrix of their residuals.

    Arguments:
        images: f(z_i), (B, m, n).
        gaps: F_i = f(z_i) - z_i, (B, m, n).
        gram: <F_i, F_j>, the diagonal regularised, (B, m, m); VOID on the diagonal of an unused
            slot, whose weight then vanishes.
        best: smallest ||F|| since the last restart, (B,).
        count: evaluations written so far, shared by the batch.
    """

    images: Tensor
    gaps: Tensor
    gram: Tensor
    best: Tensor
    count: int


@dataclass(frozen=True)
class Anderson(Solver[Equilibrium, AndersonState]):
    """Minimise the residual over the span of the last `memory` differences, then step.

    With F = f(z) - z, differences dF_i of the last steps and gamma = argmin ||F - dF gamma||:

        z <- (f - df gamma) - (1 - damping) (F - dF gamma).

    The differences are kept orthonormal by a truncated Gram-Schmidt process, so that gamma is an
    inner product and no small system is solved; on symmetric linear maps this has the memory of
    the full method. A new difference is dropped where what is left of it after projection is
    below `regularization` of it: the regularisation is relative to the Gram matrix, so scaling
    the problem changes nothing. A sample whose residual grows by `growth` over its best forgets
    its differences and goes on with a Picard step. One evaluation a step.

    Arguments:
        memory: number m of differences; m n numbers a sample are stored twice.
        damping: mixing beta in (0, 1].
        regularization: smallest share of a difference that must be new to be kept.
        growth: residual growth over the best that makes a sample restart.

    References:
        D. G. Anderson (1965), Iterative procedures for nonlinear integral equations.
        H. Walker, P. Ni (2011), Anderson acceleration for fixed-point iterations.
        Z. Tang, T. Xu, H. He, Y. Saad, Y. Xi (2024), Anderson acceleration with truncated
        Gram-Schmidt.
    """

    memory: int = 6
    damping: float = 1.0
    regularization: float = 1e-8
    growth: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1:
            raise ValueError(f"memory must be at least 1; got {self.memory}.")
        if not 0 < self.damping <= 1:
            raise ValueError(f"damping must be in (0, 1]; got {self.damping}.")
        if not 0 <= self.regularization < 1:
            raise ValueError(f"regularization must be in [0, 1); got {self.regularization}.")
        if not self.growth > 1:
            raise ValueError(f"growth must be above 1; got {self.growth}.")

    @property
    def compacts_below(self) -> float:
        return 0.5  # the history is copied

    def init(self, problem: Equilibrium, z0: Tensor) -> AndersonState:
        fz = problem(z0)
        n = fz[0].numel()
        memory = min(self.memory, n + 1)
        images, gaps = fz.new_zeros(2, fz.shape[0], memory, n).unbind()
        gram = VOID * torch.eye(memory, dtype=fz.dtype, device=fz.device).repeat(fz.shape[0], 1, 1)
        return self._append(z0, fz, images, gaps, gram, None, 0)

    def step(self, problem: Equilibrium, state: AndersonState) -> AndersonState:
        ones = torch.ones_like(state.gram[:, :1])
        alpha = torch.linalg.solve_ex(state.gram, ones, left=False)[0]
        alpha = alpha / alpha.sum(2, keepdim=True)
        z = torch.bmm(alpha, state.images)
        if self.damping != 1:
            z = torch.baddbmm(z, alpha, state.gaps, alpha=self.damping - 1)
        z = z.view_as(state.z)
        return self._append(
            z, problem(z), state.images, state.gaps, state.gram, state.best, state.count
        )

    def _append(
        self,
        z: Tensor,
        fz: Tensor,
        images: Tensor,
        gaps: Tensor,
        gram: Tensor,
        best: Tensor | None,
        count: int,
    ) -> AndersonState:
        image, gap = fz.flatten(1), (fz - z).flatten(1)
        slot = count % gram.shape[1]
        images, gaps = _write(images, slot, image), _write(gaps, slot, gap)
        row = torch.bmm(gap.unsqueeze(1), gaps.mT).squeeze(1)
        size = row[:, slot].sqrt()
        row[:, slot] *= 1 + self.regularization
        gram = _write(gram, slot, row)
        gram[:, :, slot] = row
        residual = size / norm(image).clamp_min(TINY)
        if best is None:
            best = size
        growth = size / best
        best = torch.minimum(size, best)
        if float(growth.detach().max()) > self.growth:
            grew = growth > self.growth
            fresh = torch.full_like(gram, 0)
            fresh.diagonal(dim1=1, dim2=2).fill_(VOID)
            fresh[:, slot, slot] = row[:, slot]
            gram = torch.where(grew[:, None, None], fresh, gram)
            best = torch.where(grew, size, best)
        return AndersonState(z, fz, residual, images, gaps, gram, best, count + 1)


def _write(buffer: Tensor, slot: int, value: Tensor) -> Tensor:
    """Put a value into a slot, in place unless autograd is watching."""
    if torch.is_grad_enabled():
        buffer = buffer.clone()
    buffer[:, slot] = value
    return buffer
