"""Hold the answers of a solve to their claim, on the full batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .norms import relative
from .problem import Equilibrium
from .solution import Solution
from .solver import Solver, start
from .status import Status

ALLOWED = 2.0
"""How often the tolerance a residual may be that was measured on other rows of the batch: the
rounding of a product depends on its size."""
ROUNDING = 64
"""Units of rounding that are allowed beside it."""


def verified(
    problem: Equilibrium,
    solver: Solver[Equilibrium, Any],
    found: Solution[Tensor],
) -> Solution[Tensor]:
    """Return the solution with the samples marked whose answer is none of the map as it stands.

    A solver that goes on with some rows while others have stopped is right if row i of the map
    depends on row i alone. So where rows stopped at different steps, the map is evaluated once on
    the full batch, and a CONVERGED sample whose residual is above its claim becomes MIXED_ROWS.
    Where the map gives something else at its second call, or a sample did not converge because it
    does, that is RANDOM_MAP. The loop does not ask where a problem promises `rowwise`,
    nor where all samples converged at one step.

    Arguments:
        problem: on the full batch.
        solver: its tolerance is what was claimed.
        found: the claim.
    """
    failed = found.status == Status.MAX_STEPS
    z = found.value.detach()
    with torch.no_grad():
        there = start(problem, z)
        image, measured = there.fz, there.residual
        claimed = found.residual.clamp(min=solver.tolerance(there))
        eps = torch.finfo(z.dtype).eps
        allowed = ALLOWED * claimed + ROUNDING * eps
        wrong = found.converged & ~(measured <= allowed)
        if not bool((wrong | failed).any()):
            return replace(found, checks=found.checks + 1)
        again = problem(z)
        moved = relative(again - image, image) > ROUNDING * eps
        suspect = wrong | failed | ~(relative(again - z, again) <= allowed)
    code = torch.where(wrong, Status.MIXED_ROWS, found.status)
    code = torch.where(suspect & moved, Status.RANDOM_MAP, code).to(torch.int8)
    residual = torch.where(wrong, measured.to(found.residual), found.residual)
    return replace(found, status=code, residual=residual, checks=found.checks + 2)
