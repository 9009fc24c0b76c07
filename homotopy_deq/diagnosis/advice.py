"""What to try, in order: rules over the figures of a diagnosis."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import torch

from solvers import Robust

from .tried import OWN, Tried

if TYPE_CHECKING:
    from .diagnosis import Diagnosis

NEAR = 0.95
"""Growth from which on training is to be held back: plain iteration then takes 180 evaluations to
gain four digits, and weights that drift a little further take it across 1."""
NORMAL = 5.0
"""Non-normality from which on errors grow by so much before they fall."""
DAMPINGS = tuple(k / 20 for k in range(1, 20))


class Remedy(Enum):
    """What is advised, in the order in which it is to be tried."""

    ROWS = "independent rows"
    RANDOM = "no random numbers"
    FINITE = "finite values"
    IN_PLACE = "no writes in place"
    PRECISION = "precision"
    DAMPING = "damping"
    SOLVER = "another solver"
    PENALTY = "Jacobian penalty"
    CONTRACTION = "contraction"
    START = "a better start"


@dataclass(frozen=True)
class Advice:
    """One thing to try, and the figures that say so.

    Arguments:
        remedy: what.
        said: a sentence or two.
    """

    remedy: Remedy
    said: str

    def __str__(self) -> str:
        return f"{self.remedy.value}: {self.said}"


def advise(found: Diagnosis) -> tuple[Advice, ...]:
    """Return what to try, in order; nothing where there is nothing to mend.

    Arguments:
        found: the figures.
    """
    said = {
        Remedy.ROWS: _rows(found),
        Remedy.RANDOM: _random(found),
        Remedy.FINITE: _finite(found),
        Remedy.IN_PLACE: _in_place(found),
        Remedy.PRECISION: _precision(found),
        Remedy.DAMPING: _damping(found),
        Remedy.SOLVER: _solver(found),
        Remedy.PENALTY: _penalty(found),
        Remedy.CONTRACTION: _contraction(found),
        Remedy.START: _start(found),
    }
    return tuple(Advice(remedy, said[remedy]) for remedy in Remedy if said[remedy])


def _rows(found: Diagnosis) -> str:
    if found.conduct.rowwise is not False:
        return ""
    return (
        "row i of the map changes with the other rows (BatchNorm in training, attention over "
        "dimension 0): call eval(), put the batch first, or say coupled=True if the rows are one "
        "system. The figures are of the batch as one system."
    )


def _random(found: Diagnosis) -> str:
    if found.conduct.deterministic:
        return ""
    return (
        "two calls at one state differ, so there is no fixed point: draw a dropout mask once a "
        "solve, in the cell's condition(x)."
    )


def _finite(found: Diagnosis) -> str:
    if found.conduct.finite == 1:
        return ""
    share = 1 - found.conduct.finite
    return f"f(z0) is not finite for {share:.0%} of the samples: look at x, then at the weights."


def _in_place(found: Diagnosis) -> str:
    if not found.conduct.writes:
        return ""
    return (
        "the map writes into its arguments, so each call is on copies: write z * a in the place of "
        "z.mul_(a), and ReLU() in the place of ReLU(inplace=True)."
    )


def _precision(found: Diagnosis) -> str:
    eps = torch.finfo(found.conduct.precision).eps
    if found.rtol >= eps:
        return ""
    kind = str(found.conduct.precision).removeprefix("torch.")
    return (
        f"the map computes in {kind}, which rounds at {eps:.0e}, so no residual of {found.rtol:g} "
        f"can be held: take rtol={eps:.0e}, or more precision."
    )


def _damping(found: Diagnosis) -> str:
    """Find the damping under which most samples contract, where more of them do than without."""
    s = found.spectrum
    if _healthy(found) or not bool(s.eigenvalues.isfinite().all()):
        return ""

    def contracting(damping: float) -> tuple[float, float]:
        rate = s.rate(damping)
        return (rate < 1).float().mean().item(), -rate.median().item()

    best = max(DAMPINGS, key=contracting)
    share, rate = contracting(best)
    without = contracting(1.0)[0]
    if share <= without:
        return ""
    digits = min(math.log(found.rtol), 0.0)
    steps = digits / math.log(-rate) if 0 < -rate < 1 else math.inf
    return (
        f"Picard(damping={best:g}) contracts near the answers of {share:.0%} of the samples "
        f"({without:.0%} without), by {-rate:.2f} a step: about {steps:.0f} evaluations to "
        f"{found.rtol:g}. No eigenvalue of theirs has a real part of 1 or more."
    )


def _solver(found: Diagnosis) -> str:
    own = found.tried[OWN]
    if own.solved == 1:
        return ""
    told = f"its own {type(own.solver).__name__} solves {own.solved:.0%} in {own.cost:.0f}"
    others = [each for name, each in found.tried.items() if name != OWN]
    best = max(others, key=lambda each: (each.solved, -each.cost), default=own)
    if best.solved > own.solved:
        return (
            f"{_written(best)} solves {best.solved:.0%} of the samples in {best.cost:.0f} "
            f"evaluations; {told}."
        )
    if isinstance(own.solver, Robust):
        return ""  # nothing here does more
    return (
        f"none of these solves more than {own.solved:.0%} of the samples. Robust() follows paths "
        "and solves nearly all there is to solve, at 10 to 100 times the evaluations."
    )


def _penalty(found: Diagnosis) -> str:
    high = _high(found)
    if not high >= NEAR:
        return ""
    return (
        f"J^T grows by {high:.2f} a step for a tenth of the samples: train with + w * "
        "jacobian_penalty(cell, z, *condition), or train --jacobian-penalty W, from 0.1 up until "
        "it stays below 1. Weights that are trained already are not mended by it."
    )


def _contraction(found: Diagnosis) -> str:
    high, off = _high(found), found.spectrum.nonnormality.nanmedian().item()
    if high >= 1:
        return (
            f"with a growth of {high:.2f} nothing holds the map back: a cell that contracts "
            "whatever its weights (ContractiveCell, MonotoneCell), or weights held by "
            "torch.nn.utils.parametrizations.spectral_norm."
        )
    if off >= NORMAL and not _healthy(found):
        return (
            f"the Jacobian is far from normal (its norm is {off:.1f} times its radius), so errors "
            "grow before they fall: bound the norm, as ContractiveCell does."
        )
    return ""


def _start(found: Diagnosis) -> str:
    own = found.tried[OWN]
    missed = ~own.converged
    if not bool(missed.any()) or not bool((found.spectrum.growth.cpu()[missed] < 1).any()):
        return ""
    near = (found.spectrum.growth.cpu()[missed] < 1).float().mean().item()
    return (
        f"near the answers of {near:.0%} of the samples that failed the map contracts: begin "
        "nearer (an earlier Solution as z0, a learned start), or take more steps than "
        f"{own.solver.max_steps}."
    )


def _healthy(found: Diagnosis) -> bool:
    return found.tried[OWN].solved == 1 and _high(found) < 1


def _high(found: Diagnosis) -> float:
    """Return the growth that a tenth of the samples exceed."""
    return torch.quantile(found.spectrum.growth.double().cpu(), 0.9).item()


def _written(tried: Tried) -> str:
    """Write a solver with the settings that matter."""
    solver = tried.solver
    atol = f"atol={solver.atol:g}, " * (solver.atol > 0)
    named = type(solver).__name__
    return f"{named}(rtol={solver.rtol:g}, {atol}max_steps={solver.max_steps})"
