"""The end of a path: where it crosses lambda = 1, and the root of f itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..problem import Equilibrium
from ..solution import Solution
from ..solver import Solver
from .curve import Curve
from .predictor import Knot, hermite

BISECTIONS = 30  # places the crossing to 1e-9 of a step, well below what is polished anyway


def where_crossed(curve: Curve, last: Knot, here: Knot, gap: Tensor, level: float = 1.0) -> Tensor:
    """Return the point w of the cubic between two points at which lambda = level.

    Where lambda is on the same side of the level at both points, any point between is returned.
    """
    high = torch.ones_like(gap)
    low = torch.zeros_like(gap)
    before = curve.split(last.y)[1] >= level
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        lam = curve.split(hermite(last, here, gap, middle))[1]
        left = (lam >= level) == before
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
    return hermite(last, here, gap, high)


def polish(
    problem: Equilibrium, solver: Solver[Equilibrium, Any], z: Tensor, chosen: Tensor
) -> Solution[Tensor]:
    """Solve z = f(z) from z for the samples `chosen`, bool (B,); the others are left blank."""
    if problem.condition is None:
        return run(problem, solver, z)
    index = chosen.nonzero().squeeze(1)
    found = run(problem.rows(index), solver, z[index])

    def spread(values: Tensor) -> Tensor:
        return scatter(values, index, values.new_zeros(len(chosen), *values.shape[1:]))

    return Solution(
        value=spread(found.value),
        status=spread(found.status),
        steps=spread(found.steps),
        evals=spread(found.evals),
        residual=spread(found.residual),
    )


def scatter(values: Tensor, index: Tensor, base: Tensor) -> Tensor:
    """Return base with its rows `index` replaced by values."""
    return base.index_copy(0, index, values)
