"""Branches that nearly cross are kept apart; those that do cross have a branch point."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from solvers import Status
from solvers.homotopy import Branch, Family, trace

MISSES = [sign * 10.0**-k for k in range(2, 7) for sign in (1, -1)]
PLACED = 1e-7


def follow(family: Family, z: float, lam: float, direction: float = 1) -> Branch:
    start = torch.tensor([[z]], dtype=torch.float64)
    (branch,) = trace(family, start, lam=lam, direction=direction, span=(-1.03, 1.03))
    return branch


def pitchfork(miss: float) -> Family:
    return Family.of_residual(lambda z, lam: z * (lam - z * z) + miss)


def transcritical(miss: float) -> Family:
    return Family.of_residual(lambda z, lam: z * (lam - z) + miss)


@pytest.mark.parametrize("miss", MISSES)
def test_imperfect_pitchfork_bends_away_to_its_own_side(miss: float) -> None:
    branch = follow(pitchfork(miss), 0, -1.03)
    assert branch.status == Status.CONVERGED and branch.lam[-1] == 1.03
    assert float(branch.z[-1]) == pytest.approx(math.copysign(1.015, miss), abs=0.01)
    assert branch.branch_points == () and branch.folds == ()
    back = follow(pitchfork(miss), float(branch.z[-1]), 1.03, -1)
    assert back.status == Status.CONVERGED and back.lam[-1] == -1.03
    assert torch.allclose(back.z[-1], branch.z[0], atol=1e-6) and back.branch_points == ()


@pytest.mark.parametrize("miss", MISSES)
def test_other_branch_of_an_imperfect_pitchfork_turns_back_at_its_fold(miss: float) -> None:
    branch = follow(pitchfork(miss), -miss, 1.03, -1)
    assert branch.status == Status.CONVERGED and branch.lam[-1] == 1.03
    assert float(branch.z[-1]) == pytest.approx(-math.copysign(1.015, miss), abs=0.01)
    (fold,) = branch.folds
    assert abs(fold.lam - 3 * (abs(miss) / 2) ** (2 / 3)) < PLACED and branch.branch_points == ()


@pytest.mark.parametrize("miss", MISSES)
def test_imperfect_transcritical_branches_turn_to_each_other(miss: float) -> None:
    """z (lam - z) + miss = 0 has a gap in lambda for miss < 0, and none for miss > 0."""
    branch = follow(transcritical(miss), 0, -1.03)
    end = (1.03 if miss > 0 else -1.03) + float(branch.z[0, 0]) * (1 if miss > 0 else -1)
    assert branch.status == Status.CONVERGED and branch.branch_points == ()
    assert abs(float(branch.lam[-1])) == 1.03 and (branch.lam[-1] > 0) == (miss > 0)
    assert float(branch.z[-1]) == pytest.approx(end, abs=1e-5)
    assert [round(fold.lam, 6) for fold in branch.folds] == (
        [] if miss > 0 else [-round(2 * math.sqrt(-miss), 6)]
    )


@pytest.mark.parametrize("lam", [1.03, 1.5, 4.0])
def test_branch_point_of_a_pitchfork_is_placed_along_the_parabola_too(lam: float) -> None:
    start = torch.tensor([[lam**0.5]], dtype=torch.float64)
    (branch,) = trace(pitchfork(0), start, lam=lam, direction=-1, span=(-1, lam))
    assert branch.status == Status.CONVERGED and branch.lam[-1] == lam and branch.z[-1] < -1
    assert branch.branch_points is not None
    (point,) = branch.branch_points
    assert abs(point.lam) < PLACED and abs(float(point.z)) < PLACED


@pytest.mark.parametrize("gap", [0.1, 0.01, 0.001])
def test_two_waves_side_by_side_are_followed_each_by_itself(gap: float) -> None:
    def residual(z: Tensor, lam: Tensor) -> Tensor:
        off = z - torch.sin(8 * lam)
        return off * (off - gap)

    branch = follow(Family.of_residual(residual), 0, 0)
    assert branch.status == Status.CONVERGED and branch.branch_points == ()
    assert (branch.z[:, 0] - torch.sin(8 * branch.lam)).abs().max() < gap / 2


def test_a_miss_too_narrow_to_be_followed_is_no_convergence() -> None:
    """At 1e-12 a pitchfork bends within 1e-8 in lambda, less than the smallest step."""
    assert follow(pitchfork(1e-12), 0, -1.03).status == Status.STEP_TOO_SMALL


@pytest.mark.parametrize("angle", [0.27, 0.2914, 0.2915, 0.3])
def test_a_loop_that_begins_beside_a_branch_point_reports_it_once(angle: float) -> None:
    """The circle is cut by z = 0.3 lam at the angle 0.29146."""

    def residual(z: Tensor, lam: Tensor) -> Tensor:
        return (z * z + lam * lam - 1) * (z - 0.3 * lam)

    start = torch.tensor([[math.sin(angle)]], dtype=torch.float64)
    (branch,) = trace(Family.of_residual(residual), start, lam=math.cos(angle), span=(-2, 2))
    assert branch.closed and branch.branch_points is not None
    at = sorted(point.lam for point in branch.branch_points)
    assert at == pytest.approx([-(1.09**-0.5), 1.09**-0.5], abs=PLACED)


def test_near_misses_among_other_unknowns_and_in_a_batch() -> None:
    """z = tanh(lam W z + miss): the first of eight pitchforks is near lambda = 1."""
    values = torch.linspace(0.3, 1, 8, dtype=torch.float64).square()
    basis = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    w = basis @ torch.diag(values) @ basis.T
    miss = torch.tensor([[1e-3], [-1e-3], [1e-5], [0.0]], dtype=torch.float64) * basis[:, -1]

    def h(z: Tensor, lam: Tensor, miss: Tensor) -> Tensor:
        return torch.tanh(lam * (z @ w) + miss)

    z0 = torch.zeros(4, 8, dtype=torch.float64)
    branches = trace(Family(h, (miss,)), z0, lam=0.2, span=(0.2, 1.2))
    ends = [float(branch.z[-1] @ basis[:, -1]) for branch in branches]
    assert all(branch.status == Status.CONVERGED for branch in branches)
    assert [len(branch.branch_points or ()) for branch in branches] == [0, 0, 0, 1]
    assert ends[0] == pytest.approx(-ends[1], rel=1e-6) and ends[0] > 1 and ends[2] > 1
    assert abs(ends[3]) < 1e-9


def test_a_branch_point_before_the_border_is_told_from_one_beyond() -> None:
    """Branches cross at 0 and at 0.05; one long step goes over both, and a border between."""
    family = Family.of_residual(lambda z, lam: z * (lam - z) * (lam - 0.05 - z))
    start = torch.zeros(1, 1, dtype=torch.float64)
    (branch,) = trace(family, start, lam=-1, span=(-1, 0.03))
    assert branch.lam[-1] == 0.03 and branch.branch_points is not None
    (point,) = branch.branch_points
    assert abs(point.lam) < PLACED
