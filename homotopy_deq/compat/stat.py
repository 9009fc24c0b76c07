"""torchdeq's statistics of a solve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from solvers import Equilibrium, Solution
from solvers.jacobian import Linearization
from solvers.norms import norm, relative
from solvers.packing import pack

from ..diagnosis.spectrum import growth
from .options import Options

Info = dict[str, Any]


def statistics(problem: Equilibrium, found: Solution[Any], options: Options) -> Info:
    """Return torchdeq's `info` of a solve, and the `Solution` itself.

    The absolute residual takes an evaluation more; `no_stat` spares it, and leaves it out.
    """
    info: Info = {
        "rel_lowest": found.residual,
        "rel_trace": found.residual[:, None],
        "nstep": found.evals.to(found.residual.dtype),
        "sradius": torch.zeros(1, device=found.residual.device),
        "status": found.status,
        "solution": found,
    }
    path = found.trajectory
    if path is not None:
        info["rel_trace"] = path.residual.T
    if not options.no_stat:
        with torch.no_grad():
            packed, z, _ = pack(problem, found.value)
            info["abs_lowest"] = norm(packed(z) - z).expand(len(found.residual))
        info["abs_trace"] = info["abs_lowest"][:, None]
    return info


def radius(problem: Equilibrium, found: Solution[Any]) -> Tensor:
    """Return the spectral radius of df/dz at an answer, (B,), by products with its transpose."""
    with torch.no_grad():
        packed, z, _ = pack(problem, found.value)
        at = Linearization(packed, z, None, packed.condition)
        return growth(at.pull, torch.randn_like(z)).to(z.dtype).expand(len(found.residual))


def solver_stat_from_final_step(
    z: Tensor | Sequence[Tensor], fz: Tensor | Sequence[Tensor], nstep: float = 0
) -> Info:
    """Return torchdeq's `info` of an answer and its image.

    Arguments:
        z: the answer, (B, ...), or a list of them.
        fz: f(z), as z.
        nstep: the evaluations that it took.
    """
    before, after = ([t] if isinstance(t, Tensor) else t for t in (z, fz))
    at, image = (torch.cat([t.flatten(1) for t in ts], 1) for ts in (before, after))
    gap = norm(image - at)
    rel = relative(image - at, image)
    return {
        "abs_lowest": gap,
        "rel_lowest": rel,
        "abs_trace": gap[:, None],
        "rel_trace": rel[:, None],
        "nstep": torch.full_like(gap, nstep),
        "sradius": torch.full_like(gap[:1], -1.0),
    }
