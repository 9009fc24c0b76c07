"""The end of a path: where it crosses lambda = 1, and the root of f itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..driver import run
from ..norms import expand
from ..problem import Equilibrium
from ..rows import scatter
from ..solution import Solution
from ..solver import Evaluated, Solver, earned, residual_norm, start
from ..status import Status
from .arcstep import ArcState
from .curve import Curve, Factors

CHORDS = 15  # corrections with one factorisation, each at half the residual or less


def finish(
    problem: Equilibrium, solver: Solver[Equilibrium, Any], curve: Curve, state: ArcState
) -> Solution[Tensor]:
    """Solve z = f(z) where the path crosses lambda = 1 in the last step.

    Arguments:
        problem: the equation at lambda = 1.
        solver: Newton's method, to the tolerance wanted.
        curve: the path's equations.
        state: behind the crossing; where its Jacobians are formed chords are tried first.
    """
    crossing, _ = curve.split(state.piece.crossing(curve.scales[1]))
    if state.factors is None:
        return run(problem, solver, crossing, first=state.first)
    found = chord_root(problem, curve, state.factors, crossing, solver, state.first)
    left = ~found.converged
    if not bool(left.any()):
        return found
    again = polish(problem, solver, crossing, left, state.first)
    return Solution(
        value=torch.where(expand(left, crossing), again.value, found.value),
        status=torch.where(left, again.status, found.status),
        steps=found.steps + again.steps,
        evals=found.evals + torch.where(left, again.evals, 0),
        residual=torch.where(left, again.residual, found.residual),
    )


def polish(
    problem: Equilibrium,
    solver: Solver[Equilibrium, Any],
    z: Tensor,
    chosen: Tensor,
    first: Tensor,
) -> Solution[Tensor]:
    """Solve z = f(z) from z for the samples `chosen`, bool (B,); the others are left blank.

    `first` is ||f(z) - z|| at the start of the path, (B,).
    """
    index = chosen.nonzero().squeeze(1)
    found = run(problem.rows(index), solver, z[index], first=first[index])
    return spread(found, index, len(chosen))


def spread(found: Solution[Tensor], index: Tensor, batch: int) -> Solution[Tensor]:
    """Return the solution of a batch of which the samples `index` have been solved."""

    def full(x: Tensor) -> Tensor:
        return scatter(x, index, x.new_zeros(batch, *x.shape[1:]))

    value, status, residual = full(found.value), full(found.status), full(found.residual)
    return Solution(value, status, full(found.steps), full(found.evals), residual)


def chord_root(
    problem: Equilibrium,
    curve: Curve,
    factors: Factors,
    z: Tensor,
    solver: Solver[Any, Any],
    first: Tensor,
) -> Solution[Tensor]:
    """Solve z = f(z) near a point of the path where the Jacobian is factored, by the chord method.

    [G'; t^T] at the point solves the system at lambda = 1 too, where t is not orthogonal to
    lambda. A sample whose residual does not fall by half in every step ends MAX_STEPS.

    Arguments:
        problem: the equation at lambda = 1.
        curve: the path's equations.
        factors: of [G'; t^T], with t.
        z: the starts, (B, ...).
        solver: whose tolerance is to be met.
        first: ||f(z) - z|| at the start of the path, (B,).
    """

    def arrived(state: Evaluated) -> Tensor:
        met = state.residual <= solver.tolerance(state)
        return met & earned(solver, state.z, residual_norm(state), first)

    state = start(problem, z)
    evals = torch.ones_like(state.residual, dtype=torch.int64)
    done = arrived(state)
    open_ = torch.isfinite(state.residual) & ~done
    for _ in range(CHORDS):
        if not bool(open_.any()):
            break
        miss = curve.scales[0] * (state.z - state.fz).flatten(1)
        change = factors.slide(miss)
        new = start(problem, state.z - curve.split(change)[0])
        evals = evals + open_
        open_ = open_ & (new.residual <= 0.5 * state.residual)
        state = Evaluated(
            torch.where(expand(open_, z), new.z, state.z),
            torch.where(open_, new.residual, state.residual),
            torch.where(expand(open_, z), new.fz, state.fz),
        )
        done = done | (open_ & arrived(state))
        open_ = open_ & ~done
    status = torch.where(done, Status.CONVERGED, Status.MAX_STEPS).to(torch.int8)
    return Solution(state.z, status, evals, evals, state.residual)
