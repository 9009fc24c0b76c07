"""Follow whole branches of roots, with their folds and their stability."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..driver import run
from ..linear import BRANCH, GMRES, BySize
from ..newton import NewtonKrylov
from ..norms import dot, norm
from ..status import Status
from .arclength import ArcLength
from .branch import Branch, BranchPoint, precise
from .control import StepControl
from .crossing import Crossings
from .curve import Curve, Family
from .path import ArcState, resting
from .predictor import Cubic, Hermite, Knot
from .special import locate_folds
from .stability import leading_eigenvalues

TRACKER = ArcLength(
    max_steps=500,
    predictor=Hermite(),
    corrector=NewtonKrylov(rtol=1e-6, max_steps=6, halvings=0, linear=GMRES(200)),
    control=StepControl(ds=0.05, max_ds=0.2, easy=4),
    linear=BySize(krylov=200),
)
"""Follows branches to be looked at: shorter steps than a solver's, and tighter corrections."""

NEAR = 1e-2  # of a step: a cubic through points of a smooth curve is off by the fourth power


@torch.no_grad()
def trace(
    family: Family,
    z0: Tensor,
    *,
    lam: float = 0.0,
    direction: float = 1.0,
    span: tuple[float, float] = (0.0, 1.0),
    tracker: ArcLength = TRACKER,
    folds: bool = True,
    branch_points: bool = True,
    eigenvalues: int = 0,
) -> list[Branch]:
    """Follow the branch of roots of z = h(z, lambda) from near z0 until it leaves a span or closes.

    Folds and simple branch points are passed and located. The branches of a batch are followed
    at once.

    Arguments:
        family: the equations: a `Family`, or that of a homotopy, `FixedPoint().of(problem, z0)`.
        z0: near the root at `lam`, (B, ...).
        lam: where to begin.
        direction: -1 to set out towards smaller lambda.
        span: a branch ends where it leaves [low, high], at a root on the border; use infinite
            values where only `max_steps` and `bound` of the tracker are to end it.
        tracker: how curves are followed; its homotopy, rtol and atol play no part, and its `bound`
            is raised to a finite span. Two folds within one step are not seen, and of several
            branch points within one step one is or none: `replace(TRACKER.control, max_ds=...)`
            takes shorter ones.
        folds: whether to locate folds.
        branch_points: whether to locate branch points, a Jacobian at every point; not done for
            states of more than 256 entries. A step that jumps to another branch nearby, where two
            nearly cross, is then refused and halved (but not one to the next branch but one), and
            a miss too narrow for the smallest step ends STEP_TOO_SMALL or RANK_LOSS; without them
            a branch may go on along another.
        eigenvalues: leading eigenvalues of h_z to compute at every point.

    Returns:
        one `Branch` a sample; one whose start is no root has a single point and LOST_PATH.
    """
    family.check(z0)
    family = part = family.packed(z0)
    low, high = span
    if not low <= lam <= high:
        raise ValueError(f"lam must lie in span; got {lam} and {span}.")
    farthest = [2 * abs(end) for end in span if math.isfinite(end)]
    tracker = replace(tracker, bound=max(tracker.bound, *farthest, 0.0))
    points: list[list[tuple[Tensor, ...]]] = [[] for _ in z0]  # z, lambda and tangent of each
    status, evals = [Status.MAX_STEPS] * len(z0), [0] * len(z0)
    unit = z0.new_ones(len(z0))
    curve = Curve(family, z0.shape[1:], tracker.theta, unit)
    state = resting(curve, z0, lam * unit, tracker.control.ds)
    state = begin = tracker.begin(family, state, direction, rooted=False)
    watched = branch_points and z0[0].numel() <= BRANCH
    crossings = Crossings(curve, begin) if watched else None
    index = list(range(len(z0)))  # the sample of each row of the state
    moved = torch.ones_like(state.formed)
    for step in range(tracker.max_steps + 1):
        out = moved & ((state.time < low) | (state.time > high))
        if bool(out.any()):
            state = _on_border(part, tracker, state, out, span)
        home = moved & ~out & _closes(state.piece, begin.piece.here)
        ended = torch.full_like(state.status, Status.CONVERGED)
        state = replace(begin, status=ended, evals=state.evals).where(home, state)
        codes, counts, time = state.status.tolist(), state.evals.tolist(), state.time
        for row, sample in enumerate(index):
            if bool(moved[row]):
                points[sample].append((state.z[row], time[row], state.slope[row]))
            evals[sample] = counts[row]
            if codes[row] != Status.RUNNING:
                status[sample] = Status(codes[row])
        running = [row for row, code in enumerate(codes) if code == Status.RUNNING]
        if not running or step == tracker.max_steps:
            break
        if len(running) < len(index):
            keep = torch.tensor(running, device=z0.device)
            index = [index[row] for row in running]
            part, state, begin = part.rows(keep), state.rows(keep), begin.rows(keep)
        passes = None
        if crossings is not None:
            passes = partial(_passes, crossings, tracker.curve(part, state), index, span)
        state = tracker.advance(part, state, passes)
        moved = state.moved
    branches = []
    for k, found in enumerate(points):
        alone = family.rows(torch.tensor([k], device=z0.device))
        curve = replace(curve, family=alone, unit=unit[:1])
        z, times, tangent = (torch.stack(each) for each in zip(*found, strict=True))
        w = curve.join(z, times)
        s = torch.cat((unit.new_zeros(1), norm(w[1:] - w[:-1]).cumsum(0)))
        leading = _leading(alone, z, times, eigenvalues) if eigenvalues else None
        branch = Branch(z, times, s, tangent, status[k], (), leading, evals[k], curve)
        if folds:
            branch = replace(branch, folds=tuple(locate_folds(branch)))
        if crossings is not None:
            met = tuple(_met(branch, crossings.found[k]))
            branch = replace(branch, branch_points=met)
        branches.append(branch)
    return branches


def _passes(
    crossings: Crossings,
    curve: Curve,
    samples: list[int],
    span: tuple[float, float],
    state: ArcState,
) -> Tensor:
    """Say whose last step stayed on its branch, bool (B,), as far as it lies within a span."""
    border = state.time.clamp(*span)
    end = state.piece.crossing(border * curve.scales[1])
    y = torch.where((border == state.time)[:, None], state.y, end)
    return crossings.passes(curve, replace(state, y=y, gap=norm(y - state.last_y)), samples)


def _met(branch: Branch, found: list[tuple[int, Tensor]]) -> Iterator[BranchPoint]:
    """Yield the branch points of the steps of a branch, whose last one may end at its start."""
    w = branch.points()
    for k, point in found:
        along = point - w[k]
        if bool(dot(along, w[k + 1 : k + 2] - w[k]) <= norm(w[k + 1 : k + 2] - w[k]).square()):
            z, lam = branch.curve.split(point)
            yield BranchPoint(z[0], float(lam), float(branch.s[k] + norm(along)))


def _leading(family: Family, z: Tensor, lam: Tensor, count: int) -> Tensor:
    """Return the leading eigenvalues at each point of a branch, (T, count)."""
    points = zip(z[:, None], lam[:, None], strict=True)
    return torch.stack([leading_eigenvalues(family.at(t), at, count) for at, t in points])


def _on_border(
    family: Family, tracker: ArcLength, state: ArcState, out: Tensor, span: tuple[float, float]
) -> ArcState:
    """Return the state with the samples `out` back where they crossed the border, CONVERGED."""
    index = out.nonzero().squeeze(1)
    part = state.rows(index)
    curve = tracker.curve(family.rows(index), part)
    border = part.time.clamp(*span)
    guess, _ = curve.split(part.piece.crossing(border * curve.scales[1]))
    linear = tracker.linear.thorough(guess[0].numel())
    solver = NewtonKrylov(rtol=precise(guess.dtype) ** 0.5, max_steps=10, linear=linear)
    found = run(curve.family.at(border), solver, guess)
    there = replace(part, z=found.value, time=border).where(found.converged, part)
    ended = torch.full_like(part.status, Status.CONVERGED)
    return state.put(index, replace(there, status=ended, evals=part.evals + found.evals))


def _closes(piece: Cubic, home: Knot) -> Tensor:
    """Say whose last step passed a branch's first point in its direction, bool (B,).

    Arguments:
        piece: the step.
        home: the branch's first point.
    """
    last, here = piece.last, piece.here
    along = dot(last.slope, home.y - last.y)
    reach = dot(last.slope, here.y - last.y)
    share = (along / reach.clamp_min(torch.finfo(reach.dtype).tiny)).clamp(0, 1)
    off = piece.at(share) - home.y
    off = off - dot(off, home.slope)[:, None] * home.slope  # a cubic runs at a speed of its own
    same = dot(home.slope, here.slope) > 0.5
    return (along > 0) & (along <= reach) & (norm(off) <= NEAR * piece.gap) & same
