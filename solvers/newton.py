"""Newton's method with a linear solver of choice, by default a matrix-free one."""

from __future__ import annotations

from dataclasses import InitVar, dataclass, field

import torch
from torch import Tensor

from .jacobian import Linearization, Shifted
from .linear import GMRES, LinearSolver, renamed
from .norms import expand, norm
from .problem import Equilibrium
from .solver import Evaluated, Solver, start


@dataclass(frozen=True)
class NewtonKrylov(Solver[Equilibrium, Evaluated]):
    """Solve (I - J) d = f(z) - z with the exact J, by default by GMRES, and step along d.

    The step length is halved for each sample until ||f(z) - z|| falls enough; a sample for which
    no length does takes z <- f(z) if that is better. The linear
    tolerance follows the residual, so that convergence is superlinear at the end. An evaluation
    a trial step and one a Krylov vector.

    Arguments:
        linear: solver of the linear systems: `GMRES(krylov)`, `Dense()` or `BySize()`.
        halvings: trial steps a Newton step at most; the best of them is taken.

    References:
        D. Knoll, D. Keyes (2004), Jacobian-free Newton-Krylov methods.
        S. Eisenstat, H. Walker (1996), Choosing the forcing terms in an inexact Newton method.
    """

    max_steps: int = field(default=50, kw_only=True)
    linear: LinearSolver = GMRES()
    halvings: int = 6
    krylov: InitVar[int | None] = None  # the old name of linear=GMRES(krylov)

    def __post_init__(self, krylov: int | None) -> None:
        super().__post_init__()
        object.__setattr__(self, "linear", renamed(self.linear, {"krylov": krylov}))
        if self.halvings < 0:
            raise ValueError(f"halvings must be at least 0; got {self.halvings}.")

    @property
    def compacts_below(self) -> float:
        return 1.0  # a step is a linear solve

    def init(self, problem: Equilibrium, z0: Tensor) -> Evaluated:
        return start(problem, z0)

    def step(self, problem: Equilibrium, state: Evaluated) -> Evaluated:
        gap = state.fz - state.z
        jacobian = Linearization(problem, state.z, problem.map, problem.condition)
        direction = self.linear.solve(Shifted(jacobian), gap, rtol=forcing(state.residual))
        return line_search(problem, state, direction, self.halvings)


def forcing(residual: Tensor) -> Tensor:
    """Return the linear tolerance for a nonlinear relative residual: sqrt of it, in [1e-4, .1]."""
    return residual.detach().sqrt().clamp(1e-4, 0.1)


def line_search(
    problem: Equilibrium, state: Evaluated, direction: Tensor, halvings: int
) -> Evaluated:
    """Halve each sample's step until its residual norm has decreased; keep the best trial."""
    before = norm(state.fz - state.z)
    length = torch.ones_like(before)
    best = start(problem, state.z + direction)
    smallest = _size(best)
    for _ in range(halvings):
        enough = smallest <= (1 - 1e-4 * length) * before  # Armijo
        if bool(enough.all()):
            break
        length = torch.where(enough, length, 0.5 * length)
        trial = start(problem, state.z + expand(length, direction) * direction)
        size = _size(trial)
        better = ~enough & (size < smallest)
        best = _choose(better, trial, best)
        smallest = torch.where(better, size, smallest)
    stuck = smallest >= before
    if not bool(stuck.any()):
        return best
    plain = start(problem, state.fz)  # at a kink no step along d may help, where Picard's does
    return _choose(stuck & (_size(plain) < smallest), plain, best)


def _choose(mask: Tensor, new: Evaluated, old: Evaluated) -> Evaluated:
    return Evaluated(
        torch.where(expand(mask, new.z), new.z, old.z),
        torch.where(mask, new.residual, old.residual),
        torch.where(expand(mask, new.z), new.fz, old.fz),
    )


def _size(state: Evaluated) -> Tensor:
    """Return ||f(z) - z||, inf where it is not a number."""
    return torch.nan_to_num(norm(state.fz - state.z), nan=float("inf"))
