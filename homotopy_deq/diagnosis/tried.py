"""What solvers make of an equation: how many samples each solves, and for how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from solvers import (
    Anderson,
    Broyden,
    Equilibrium,
    NewtonKrylov,
    Picard,
    Solution,
    Solver,
    Trajectory,
    solve,
)

Solvers = Mapping[str, Solver[Equilibrium, Any]]


@dataclass(frozen=True)
class Tried:
    """How a solver fared.

    Arguments:
        solver: the solver.
        converged: which samples it solved, bool (B,).
        evals: that each took, (B,).
        residual: where each ended, (B,).
        path: the residuals on the way, (T, B), by the evaluations so far; without states.
        failed: why it did not run, "" where it did.
    """

    solver: Solver[Equilibrium, Any]
    converged: Tensor
    evals: Tensor
    residual: Tensor
    path: Trajectory[Tensor] | None
    failed: str = ""

    @property
    def solved(self) -> float:
        """The share of samples that it solved."""
        return self.converged.float().mean().item()

    @property
    def cost(self) -> float:
        """The median of evaluations of the samples that it solved, of all where it solved none."""
        some = self.converged if bool(self.converged.any()) else torch.ones_like(self.converged)
        return self.evals[some].double().median().item()


def standard(own: Solver[Equilibrium, Any]) -> dict[str, Solver[Equilibrium, Any]]:
    """Return the four solvers that are tried, at the tolerance of a layer's own, and that one."""
    rtol, atol = own.rtol, own.atol
    four: list[Solver[Equilibrium, Any]] = [
        Picard(rtol=rtol, atol=atol),
        Anderson(rtol=rtol, atol=atol),
        Broyden(rtol=rtol, atol=atol),
        # A failure of 50 Newton steps costs thousands of evaluations.
        NewtonKrylov(rtol=rtol, atol=atol, max_steps=20),
    ]
    named = {type(each).__name__: each for each in four}
    return {OWN: own, **{name: each for name, each in named.items() if each != own}}


OWN = "its own"
"""What the layer's own solver is called among those that are tried."""


def attempt(
    problem: Equilibrium, solver: Solver[Equilibrium, Any], z0: Tensor
) -> tuple[Tried, Solution[Tensor] | None]:
    """Solve once; a map that a solver cannot take is told, and no error.

    Arguments:
        problem: the equation.
        solver: the path.
        z0: the start, (B, ...).
    """
    try:
        found = solve(problem, solver, z0, record=True)
    except (RuntimeError, TypeError) as error:
        none = torch.zeros(len(z0), dtype=torch.bool)
        away = torch.full((len(z0),), torch.inf, dtype=z0.dtype)
        why = str(error).splitlines()[0]
        return Tried(solver, none, torch.zeros(len(z0), dtype=torch.int64), away, None, why), None
    path = found.trajectory
    if path is not None:
        z = path.z.flatten(2)[..., :0].cpu().clone()
        path = replace(path, z=z, residual=path.residual.cpu(), evals=path.evals.cpu(), time=None)
    tried = Tried(solver, found.converged.cpu(), found.evals.cpu(), found.residual.cpu(), path)
    return tried, found
