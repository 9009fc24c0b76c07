"""Anderson acceleration."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .buffer import chosen, write
from .norms import divisor, told
from .problem import Equilibrium
from .solver import Evaluated, Solver

EMPTY = 16  # smallest normal numbers: keeps the weights finite where all residuals are 0


def weights(gaps: Tensor, regularization: float, void: Tensor | None = None) -> Tensor:
    """Return alpha, (B, 1, m), of the least ||sum alpha_i F_i|| with sum alpha_i = 1.

    Arguments:
        gaps: F_i, (B, m, n).
        regularization: relative increase of the Gram matrix's diagonal, at least 4 ulp.
        void: the slots that are left out, bool (B, m): they stand apart in the matrix, as numbers
            that outweigh the others there would be its pivots, and round those away.
    """
    gram = torch.bmm(gaps, gaps.mT)
    ridge = max(regularization, 4 * torch.finfo(gram.dtype).eps)  # less is rounded away
    gram.diagonal(dim1=1, dim2=2).mul_(1 + ridge).add_(EMPTY * torch.finfo(gram.dtype).tiny)
    ones = gram.new_ones(*gram.shape[:2], 1)
    if void is not None:
        gram = gram.masked_fill(void[:, None] | void[..., None], 0)
        gram = gram + torch.diag_embed(void.to(gram.dtype))
        ones = ones.masked_fill(void[..., None], 0)
    alpha: Tensor = torch.linalg.solve_ex(gram, ones)[0]
    return (alpha / alpha.sum(1, keepdim=True)).mT


@dataclass(frozen=True)
class AndersonState(Evaluated):
    """Beside z and f(z): the last m evaluations.

    Arguments:
        images: f(z_i), (m, B, n): what is written at once lies together.
        gaps: F_i = f(z_i) - z_i, (m, B, n).
        void: the slots that a sample has forgotten, bool (B, m); None until a sample restarts.
        size: ||F(z)||, (B,).
        best: smallest ||F|| at a mixing step since the last restart, (B,).
        growth: ||F|| over the best, (B,), where the next step mixes; None elsewhere.
        most: the largest of it, once the residual was looked at: a GPU is waited for once for both.
        count: evaluations written so far, shared by the batch; below 0 before the history begins.
    """

    images: Tensor = field(metadata={"batch": 1})
    gaps: Tensor = field(metadata={"batch": 1})
    void: Tensor | None
    size: Tensor
    best: Tensor
    growth: Tensor | None
    count: int
    most: float | None = None

    def told(self) -> Tensor:
        if self.growth is None:
            return self.residual.detach().cpu()
        residual, growth = told(self.residual, self.growth)
        object.__setattr__(self, "most", float(growth.max()))
        return residual

    def rows(self, index: Tensor) -> AndersonState:
        """Return the state of the samples `index` alone; of its history what has been written."""
        used, none = max(self.count, 0), self.images[:0]
        rest = super(AndersonState, replace(self, images=none, gaps=none, most=None)).rows(index)
        images, gaps = (chosen(past, index, used) for past in (self.images, self.gaps))
        return replace(rest, images=images, gaps=gaps)


@dataclass(frozen=True)
class Anderson(Solver[Equilibrium, AndersonState]):
    """Minimise the residual over the last iterates, then step.

    With F_i = f(z_i) - z_i at the last `memory` iterates, and weights alpha that sum to 1:

        alpha = argmin ||sum alpha_i F_i||,   z <- sum alpha_i (z_i + damping F_i).

    alpha solves a system in the Gram matrix of the F_i whose diagonal is raised by the factor
    1 + regularization: relative to the matrix, so scaling the problem changes nothing. Only every
    `period`-th step mixes and the others are Picard steps, whose evaluations are mixed too: the
    Krylov space is the same at a part of the cost. A sample whose residual has grown by `growth`
    over its best forgets its past and goes on with a Picard step; not again before its memory is
    full, as where Picard steps lead away only mixing leads back. One evaluation a step.

    Arguments:
        memory: number m of evaluations kept; 2 m n numbers a sample.
        damping: mixing beta in (0, 1].
        regularization: relative increase of the Gram matrix's diagonal, at least 4 ulp.
        growth: residual growth over the best that makes a sample restart.
        period: steps from one mixing to the next; 1 mixes in every step.
        delay: Picard steps before the history begins: where most samples are done by then, none
            is written.

    References:
        D. G. Anderson (1965), Iterative procedures for nonlinear integral equations.
        H. Walker, P. Ni (2011), Anderson acceleration for fixed-point iterations.
        A. Banerjee, P. Suryanarayana, J. Pask (2016), Periodic Pulay method.
    """

    memory: int = 6
    damping: float = 1.0
    regularization: float = 1e-8
    growth: float = 2.0
    period: int = 3
    delay: int = 0

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
        if self.period < 1:
            raise ValueError(f"period must be at least 1; got {self.period}.")
        if self.delay < 0:
            raise ValueError(f"delay must be at least 0; got {self.delay}.")

    @property
    def compacts_below(self) -> float:
        return 0.5  # the history is copied

    def init(self, problem: Equilibrium, z0: Tensor) -> AndersonState:
        batch, n = z0.shape[0], z0[0].numel()
        images, gaps = z0.new_empty(2, self.memory if self.delay == 0 else 0, batch, n).unbind()
        none = z0.new_empty(batch)
        blank = AndersonState(z0, none, z0, images, gaps, None, none, none, None, -self.delay)
        return self._evaluate(problem, z0, blank, none, None)

    def step(self, problem: Equilibrium, state: AndersonState) -> AndersonState:
        if state.growth is not None:
            best, void = self._restart(state, state.growth)
            z = self._mix(state, void).view_as(state.z)
        else:
            best, void = state.best, state.void
            z = state.fz if self.damping == 1 else state.z.lerp(state.fz, self.damping)
        return self._evaluate(problem, z, state, best, void)

    def _mix(self, state: AndersonState, void: Tensor | None) -> Tensor:
        """Return sum alpha_i (z_i + damping F_i), (B, 1, n), with the Gram system's alpha."""
        used = min(state.count, self.memory)
        images, gaps = (past[:used].transpose(0, 1) for past in (state.images, state.gaps))
        alpha = weights(gaps, self.regularization, None if void is None else void[:, :used])
        z = torch.bmm(alpha, images)
        if self.damping != 1:
            z = torch.baddbmm(z, alpha, gaps, alpha=self.damping - 1)
        return z

    def _restart(self, state: AndersonState, growth: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return best and void, after the samples whose residual grew have forgotten their past."""
        best = torch.minimum(state.size, state.best)
        # A compiler cannot ask what a number is; the answer is the same either way.
        if not torch.compiler.is_compiling():
            most = float(growth.detach().max()) if state.most is None else state.most
            if most <= self.growth:
                return best, state.void
        grew = growth > self.growth
        void = state.void
        if void is None:
            void = grew.new_zeros(len(grew), self.memory)
        grew = grew & ~void.any(1)
        void = void | grew[:, None]
        void[:, (state.count - 1) % self.memory] = False
        return torch.where(grew, state.size, best), void

    def _evaluate(
        self,
        problem: Equilibrium,
        z: Tensor,
        last: AndersonState,
        best: Tensor,
        void: Tensor | None,
    ) -> AndersonState:
        """Evaluate f at z and put the result in the place of the oldest."""
        fz, count, images, gaps = problem(z), last.count, last.images, last.gaps
        slot = count % self.memory
        image, before = fz.flatten(1), z.flatten(1)
        if count == 0 and self.delay:
            images, gaps = z.new_empty(2, self.memory, *image.shape).unbind()
        if count < 0:
            gap = image - before
        elif torch.is_grad_enabled() or torch.compiler.is_compiling():
            gap = image - before
            images, gaps = write(images, slot, image, 0), write(gaps, slot, gap, 0)
        else:
            gap = torch.sub(image, before, out=gaps[slot])
            images[slot].copy_(image)
        size = torch.linalg.vector_norm(gap, dim=1)
        residual = size / divisor(torch.linalg.vector_norm(image, dim=1))
        void = None if void is None else write(void, slot, False)
        best, count = size if count <= 0 else best, count + 1
        growth = size / best if count > 0 and count % self.period == 0 else None
        return AndersonState(z, residual, fz, images, gaps, void, size, best, growth, count)
