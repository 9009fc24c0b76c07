"""Branch points and closed branches against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from experiments import classical as problems
from homotopy_deq.plotting import branch_figure
from solvers import Status
from solvers.homotopy import Family, trace

# The determinant has a simple zero there, placed to 1e-3 eps^0.4 = 5e-10 of arclength, beside
# points that Newton's method corrects to about sqrt(eps) where the system is nearly singular.
PLACED = 1e-7


def start(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float64)


PITCHFORK = Family.of_residual(lambda z, lam: z * (lam - z * z))
TRANSCRITICAL = Family.of_residual(lambda z, lam: z * (lam - z))
CIRCLE = Family.of_residual(lambda z, lam: z * z + lam * lam - 1)


@pytest.mark.parametrize("family", [PITCHFORK, TRANSCRITICAL], ids=["pitchfork", "transcritical"])
def test_branch_point_on_the_trivial_branch_is_reported(family: Family) -> None:
    (branch,) = trace(family, start(0), lam=-1.03, span=(-1.03, 1))
    assert branch.status == Status.CONVERGED and branch.folds == ()
    assert branch.branch_points is not None
    (point,) = branch.branch_points
    assert abs(point.lam) < PLACED and abs(float(point.z)) < PLACED
    assert abs(point.s - 1.03 * 0.5**0.5) < PLACED  # the metric weighs lambda by 1/2


def test_transcritical_point_is_reported_on_the_slanted_branch_too() -> None:
    (branch,) = trace(TRANSCRITICAL, start(-1.03), lam=-1.03, span=(-1.03, 1))
    assert abs(float(branch.z[-1]) - 1) < 1e-6  # it stayed on z = lam
    assert branch.branch_points is not None
    (point,) = branch.branch_points
    assert abs(point.lam) < PLACED and abs(float(point.z)) < PLACED


def test_point_among_other_unknowns_is_where_the_branches_cross() -> None:
    """y = lam^2 and z (lam - z^2 - y) = 0: pitchforks where lam = lam^2, at 0 and at 1."""

    def residual(u: Tensor, lam: Tensor) -> Tensor:
        z, y = u[:, :1], u[:, 1:]
        return torch.cat((z * (lam - z * z - y), lam * lam - y), dim=1)

    (branch,) = trace(Family.of_residual(residual), start(0, 0.25), lam=-0.5, span=(-0.5, 1.4))
    assert branch.branch_points is not None
    for point, lam in zip(branch.branch_points, (0, 1), strict=True):
        assert abs(point.lam - lam) < PLACED
        assert (point.z - start(0, lam)).abs().max() < PLACED


def test_a_fold_is_no_branch_point() -> None:
    (branch,) = trace(problems.s_curve(2.0), start(1), lam=2, direction=-1, span=(-2, 2))
    assert len(branch.folds) == 2 and branch.branch_points == () and not branch.closed


def test_a_closed_branch_ends_once_at_its_start() -> None:
    (branch,) = trace(CIRCLE, start(1), span=(-2, 2))
    assert branch.status == Status.CONVERGED and branch.closed
    assert branch.z[-1].equal(branch.z[0]) and branch.lam[-1] == branch.lam[0]
    assert [round(fold.lam, 9) for fold in branch.folds] == [1, -1]
    assert branch.branch_points == ()
    # The metric halves both squares; chords of 0.2 at most are shorter by 0.2^2 / 12 of the arc.
    length = 2 * torch.pi * 0.5**0.5
    assert length * (1 - 0.01) < float(branch.s[-1]) < length


def test_a_branch_that_sets_out_over_its_border_is_not_closed() -> None:
    (branch,) = trace(Family(lambda z, lam: 0.5 * z + lam), start(2), lam=1.0)
    assert branch.status == Status.CONVERGED and branch.lam.eq(1).all()
    assert not branch.closed


def test_closed_branches_end_each_by_itself() -> None:
    def residual(z: Tensor, lam: Tensor, radius: Tensor) -> Tensor:
        return z * z + lam * lam - radius * radius

    radius = torch.tensor([[1.0], [0.5], [9.0]], dtype=torch.float64)
    family = Family.of_residual(residual, (radius,))
    small, smaller, out = trace(family, radius.clone(), span=(-2, 2))
    assert small.closed and smaller.closed and not out.closed
    assert len(smaller.lam) < len(small.lam) and out.lam[-1] == 2


def test_branch_points_are_marked_in_a_picture() -> None:
    (branch,) = trace(PITCHFORK, start(0), lam=-1.03, span=(-1.03, 1))
    legend = branch_figure({"pitchfork": branch}).axes[0].get_legend()
    assert "branch point" in [text.get_text() for text in legend.get_texts()]


def test_point_where_three_branches_leave_at_once_is_located() -> None:
    """Three pitchforks at one lambda: the determinant has a triple zero, slow to be found."""
    family = Family.of_residual(lambda z, lam: z * (lam - 0.2 - z * z))
    (branch,) = trace(family, start(0, 0, 0), lam=-1, span=(-1, 1))
    assert branch.status == Status.CONVERGED and branch.branch_points is not None
    (point,) = branch.branch_points
    assert abs(point.lam - 0.2) < 1e-5  # 60 of Brent's steps halve at least 20 times
