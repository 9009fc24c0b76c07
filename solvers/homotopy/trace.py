"""Follow whole branches of roots, with their folds and their stability."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..driver import run
from ..linear import BRANCH, GMRES, BySize
from ..newton import NewtonKrylov
from ..norms import dot, expand, norm
from ..status import Status
from .arclength import ArcLength
from .arcstep import ArcState
from .branch import Branch, precise
from .control import StepControl
from .curve import Curve
from .family import Family
from .predictor import Cubic, Hermite, Knot
from .special import locate_branch_points, locate_folds
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


@dataclass
class _Points:
    """The points of one sample's branch as they are found."""

    z: list[Tensor] = field(default_factory=list)
    lam: list[Tensor] = field(default_factory=list)
    tangent: list[Tensor] = field(default_factory=list)

    def append(self, z: Tensor, lam: Tensor, tangent: Tensor) -> None:
        self.z.append(z)
        self.lam.append(lam)
        self.tangent.append(tangent)


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
            values where only `tracker.max_steps` is to end it.
        tracker: how curves are followed; its homotopy, rtol and atol play no part.
        folds: whether to locate folds.
        branch_points: whether to locate branch points, a Jacobian at every point; not done for
            states of more than 256 entries.
        eigenvalues: leading eigenvalues of h_z to compute at every point.

    Returns:
        one `Branch` a sample; one whose start is no root has a single point and LOST_PATH.
    """
    family.check(z0)
    family = family.packed(z0)
    low, high = span
    if not low <= lam <= high:
        raise ValueError(f"lam must lie in span; got {lam} and {span}.")
    with torch.no_grad():
        return _trace(family, z0, lam, direction, span, tracker, folds, branch_points, eigenvalues)


def _trace(
    family: Family,
    z0: Tensor,
    lam: float,
    direction: float,
    span: tuple[float, float],
    tracker: ArcLength,
    folds: bool,
    branch_points: bool,
    eigenvalues: int,
) -> list[Branch]:
    batch = z0.shape[0]
    points = [_Points() for _ in range(batch)]
    status = [Status.MAX_STEPS] * batch
    evals = [0] * batch
    state = tracker.begin(family, z0, z0.new_full((batch,), lam), direction, rooted=False)
    home = state.here
    begin = state
    index = list(range(batch))  # the sample of each row of the state
    part = family
    moved = torch.ones(batch, dtype=torch.bool)
    for step in range(tracker.max_steps + 1):
        out = moved & ((state.time < span[0]) | (state.time > span[1])).cpu()
        if bool(out.any()):
            state = _on_border(part, tracker, state, out.to(z0.device), span)
        back = (moved & ~out).to(z0.device) & _closes(state.piece, home)
        if bool(back.any()):
            state = _at_home(state, begin, back)
        codes, time, counts = state.status.tolist(), state.time, state.evals.tolist()
        for row, sample in enumerate(index):
            if bool(moved[row]):
                points[sample].append(state.z[row], time[row], state.tangent[row])
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
            home = begin.here
        state, ok = tracker.advance(part, state)
        # A branch that has ended goes on unseen where the rows cannot be selected.
        moved = ok.cpu() & torch.tensor([status[sample] == Status.MAX_STEPS for sample in index])
    rows = [family.rows(torch.tensor([k], device=z0.device)) for k in range(batch)]
    return [
        _branch(Curve(rows[k], z0.shape[1:], tracker.theta), points[k], status[k], evals[k],
                folds, branch_points, eigenvalues)
        for k in range(batch)
    ]  # fmt: skip


def _on_border(
    family: Family, tracker: ArcLength, state: ArcState, out: Tensor, span: tuple[float, float]
) -> ArcState:
    """Return the state with the samples `out` back where they crossed the border, CONVERGED."""
    curve = Curve(family, state.z.shape[1:], tracker.theta, state.unit)
    border = torch.where(state.time > span[1], span[1], span[0]).to(state.time)
    z, time = state.z, state.time
    evals = state.evals
    for level in set(border[out].tolist()):
        at = out & (border == level)
        guess, _ = curve.split(state.piece.crossing(level * curve.scales[1]))
        linear = tracker.linear.thorough(z[0].numel())
        solver = NewtonKrylov(rtol=precise(z.dtype) ** 0.5, max_steps=10, linear=linear)
        found = run(family.at(border), solver, guess)
        fine = at & found.converged
        z = torch.where(expand(fine, z), found.value, z)
        time = torch.where(fine, border, time)
        evals = evals + torch.where(at, found.evals, 0)
    code = torch.where(out, Status.CONVERGED, state.status).to(torch.int8)
    return replace(state, z=z, time=time, status=code, evals=evals)


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


def _at_home(state: ArcState, begin: ArcState, back: Tensor) -> ArcState:
    """Return the state with the samples `back`, bool (B,), at their first points, CONVERGED."""
    return replace(
        state,
        z=torch.where(expand(back, state.z), begin.z, state.z),
        tangent=torch.where(back[:, None], begin.tangent, state.tangent),
        time=torch.where(back, begin.time, state.time),
        status=torch.where(back, Status.CONVERGED, state.status).to(torch.int8),
    )


def _branch(
    curve: Curve,
    points: _Points,
    status: Status,
    evals: int,
    folds: bool,
    branch_points: bool,
    eigenvalues: int,
) -> Branch:
    z, lam, tangent = (torch.stack(each) for each in (points.z, points.lam, points.tangent))
    w = curve.join(z, lam)
    steps = (w[1:] - w[:-1]).norm(dim=1)
    s = torch.cat((steps.new_zeros(1), steps.cumsum(0)))
    leading = None
    if eigenvalues:
        leading = torch.stack([
            leading_eigenvalues(curve.family.at(lam[k : k + 1]), z[k : k + 1], eigenvalues)
            for k in range(len(lam))
        ])  # fmt: skip
    branch = Branch(z, lam, s, tangent, status, (), leading, evals, curve)
    if folds:
        branch = replace(branch, folds=tuple(locate_folds(branch)))
    if branch_points and z[0].numel() <= BRANCH:
        branch = replace(branch, branch_points=tuple(locate_branch_points(branch)))
    return branch
