"""Newton's method with the whole Jacobian: for states of few entries."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear import LinearMap, linearize
from ..norms import TINY
from ..problem import Equilibrium
from ..solver import Solver, State, start


@dataclass(frozen=True)
class NewtonDirect(Solver[Equilibrium, State]):
    """Solve (I - J) d = f(z) - z with J formed and factored, and go to z + d.

    A step costs n + 2 evaluations where GMRES may need fewer; but the Jacobian of a small state
    takes less time to form and factor than a Krylov space takes to orthogonalise.

    References:
        J. Dennis, R. Schnabel (1983), Numerical methods for unconstrained optimization.
    """

    max_steps: int = 20

    @property
    def compacts_below(self) -> float:
        return 1.0  # a step is a linear solve

    def init(self, problem: Equilibrium, z0: Tensor) -> State:
        return start(problem, z0)

    def step(self, problem: Equilibrium, state: State) -> State:
        z = state.z
        j = jacobian(problem, z, problem.map)
        eye = torch.eye(j.shape[1], dtype=j.dtype, device=j.device)
        d = solve_dense(eye - j, (state.fz - z).flatten(1))
        return start(problem, z + d.view_as(z))


def jacobian(function: LinearMap, z: Tensor, counter: object = None) -> Tensor:
    """Return the Jacobian of each sample, (B, m, n), for f: (B, n) -> (B, m), by n products.

    Arguments:
        function: f; row i of its output may depend on row i of z alone.
        z: where, (B, ...).
        counter: the `Counter` of f's evaluations, if any: a product counts as one.
    """
    _, push = linearize(function, z, counter)
    units = torch.eye(z[0].numel(), dtype=z.dtype, device=z.device).view(-1, *z.shape[1:])
    return torch.stack([push(unit.expand_as(z)).flatten(1) for unit in units], dim=2)


def solve_dense(a: Tensor, b: Tensor) -> Tensor:
    """Return the solution of a d = b for each sample, a (B, n, n); not finite where singular."""
    lu, pivots, _ = torch.linalg.lu_factor_ex(a)
    d: Tensor = torch.linalg.lu_solve(lu, pivots, b.unsqueeze(2)).squeeze(2)
    finite = torch.isfinite(d).all(1, keepdim=True)
    return torch.where(finite, d, b / TINY)
