"""Broyden's method with bounded memory."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .buffer import write
from .norms import divisor, dot, norm
from .problem import Equilibrium
from .solver import Evaluated, Solver, start


@dataclass(frozen=True)
class BroydenState(Evaluated):
    """Beside z and f(z): the inverse Jacobian of f(z) - z as -I + sum of left_i right_i^T.

    Arguments:
        left: left_i of the update, (B, m, n); rows from `count` on are 0.
        right: right_i of the update, likewise.
        best: smallest ||F|| since the last restart, (B,).
        count: updates since the last full restart, shared by the batch.
    """

    left: Tensor
    right: Tensor
    best: Tensor
    count: int


@dataclass(frozen=True)
class Broyden(Solver[Equilibrium, BroydenState]):
    """Step by a low-rank inverse Jacobian that satisfies the last secant equations.

    With F = f(z) - z and H the approximate inverse of its Jacobian (-I at first):

        z <- z - H F,    H <- H + (dz - H dF) dz^T H / (dz^T H dF).

    When `memory` updates are stored, all are dropped and H starts again from -I; a sample whose
    residual grows by `growth` over its best drops its own. One evaluation a step.

    Arguments:
        memory: updates stored; 2 m n numbers a sample.
        growth: residual growth over the best that makes a sample restart.

    References:
        C. G. Broyden (1965), A class of methods for solving nonlinear simultaneous equations.
        C. T. Kelley (1995), Iterative methods for linear and nonlinear equations, ch. 7.
    """

    max_steps: int = field(default=200, kw_only=True)
    memory: int = 30
    growth: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.memory < 1 or not self.growth > 1:
            raise ValueError(
                f"memory must be at least 1 and growth above 1; got {self.memory}, {self.growth}."
            )

    @property
    def compacts_below(self) -> float:
        return 0.5  # the factors are copied

    def init(self, problem: Equilibrium, z0: Tensor) -> BroydenState:
        first = start(problem, z0)
        n = z0[0].numel()
        left, right = z0.new_zeros(2, z0.shape[0], self.memory, n).unbind()
        best = norm(first.fz - first.z)
        return BroydenState(first.z, first.residual, first.fz, left, right, best, 0)

    def step(self, problem: Equilibrium, state: BroydenState) -> BroydenState:
        left, right, count = state.left, state.right, state.count
        gap = (state.fz - state.z).flatten(1)
        dz = -apply(left[:, :count], right[:, :count], gap)
        z = state.z + dz.view_as(state.z)
        fz = problem(z)
        new_gap = (fz - z).flatten(1)
        size = norm(new_gap)

        dF = new_gap - gap
        if count == left.shape[1]:
            left, right, count = torch.zeros_like(left), torch.zeros_like(right), 0
        HdF = apply(left[:, :count], right[:, :count], dF)
        dzH = apply(right[:, :count], left[:, :count], dz)  # H^T dz
        scale = dot(dz, HdF)
        small = scale.abs() <= torch.finfo(z.dtype).eps * norm(dz) * norm(HdF)
        inverse = torch.where(small, 0, 1 / torch.where(small, 1, scale))
        left = write(left, count, (dz - HdF) * inverse[:, None])
        right = write(right, count, dzH)

        grew = size > self.growth * state.best
        best = torch.minimum(size, state.best)
        if bool(grew.any()):
            keep = (~grew)[:, None, None]
            left, right = left * keep, right * keep
            best = torch.where(grew, size, best)
        residual = size / divisor(norm(fz))
        return BroydenState(z, residual, fz, left, right, best, count + 1)


def apply(left: Tensor, right: Tensor, v: Tensor) -> Tensor:
    """Return (-I + sum left_i right_i^T) v, (B, n)."""
    if left.shape[1] == 0:
        return -v
    overlap = torch.bmm(v.unsqueeze(1), right.mT)
    return torch.baddbmm(v.unsqueeze(1), overlap, left, beta=-1).squeeze(1)
