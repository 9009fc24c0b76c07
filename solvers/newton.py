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

    A step begins at f(z) where the residual is smaller there than at z: far from an equilibrium J
    may say nothing of the way, and one evaluation does what takes a Krylov space its whole
    dimension. The step length is halved for each sample until ||f(z) - z|| falls enough; a sample
    for which the whole step does not do takes z <- f(z) if that is better. The linear tolerance
    follows the residual, so that convergence is superlinear at the end. A step takes an evaluation
    at f(z), one to linearise, one a trial step and one a Krylov vector.

    Arguments:
        linear: solver of the linear systems: `GMRES(krylov)`, `Dense()` or `BySize()`.
        halvings: trial steps a Newton step at most; the best of them is taken. With 0 it is a local
            method: whole steps, from z itself.

    References:
        D. Knoll, D. Keyes (2004), Jacobian-free Newton-Krylov methods.
        S. Eisenstat, H. Walker (1996), Choosing the forcing terms in an inexact Newton method.
        C. T. Kelley (1995), Iterative methods for linear and nonlinear equations.
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
        rtol = forcing(state.residual)
        if self.halvings > 0:
            plain = start(problem, state.fz)
            state = _choose(_size(plain) < _size(state), plain, state)
            enough = 0.5 * self.tolerance(state) / state.residual.detach()  # Kelley 1995, 6.3
            rtol = torch.maximum(forcing(state.residual, LOOSE), enough.clamp(max=0.5))
        gap = state.fz - state.z
        jacobian = Linearization(problem, state.z, problem.map, problem.condition)
        direction = self.linear.solve(Shifted(jacobian), gap, rtol=rtol)
        return line_search(problem, state, direction, self.halvings)


LOOSE = 0.3  # with 0.1 as many evaluations, and more ends in local minima of the residual


def forcing(residual: Tensor, largest: float = 0.1) -> Tensor:
    """Return the linear tolerance for a nonlinear relative residual: its root, 1e-4 to largest."""
    return residual.detach().sqrt().clamp(1e-4, largest)


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
    damped = (length < 1) | (smallest >= before)
    if not bool(damped.any()):
        return best
    # At a kink no step along d may help, and ever smaller ones lead into a local minimum of the
    # residual near which I - J is singular, where Picard's step does help.
    plain = start(problem, state.fz)
    return _choose(damped & (_size(plain) < smallest), plain, best)


def _choose(mask: Tensor, new: Evaluated, old: Evaluated) -> Evaluated:
    return Evaluated(
        torch.where(expand(mask, new.z), new.z, old.z),
        torch.where(mask, new.residual, old.residual),
        torch.where(expand(mask, new.z), new.fz, old.fz),
    )


def _size(state: Evaluated) -> Tensor:
    """Return ||f(z) - z||, inf where it is not a number."""
    return torch.nan_to_num(norm(state.fz - state.z), nan=float("inf"))
