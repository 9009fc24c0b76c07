"""Branches of classical problems against closed forms and tables."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from experiments import classical as problems
from solvers import Equilibrium, Status
from solvers.homotopy import Family, FixedPoint, Newton, trace
from solvers.homotopy.stability import leading_eigenvalues
from solvers.homotopy.trace import TRACKER

TABLE = 6e-11  # the tables give ten decimals


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("n", "known"), [(16, 3.5074983785), (32, 3.5121515523), (64, 3.5133980023)]
)
def test_bratu_fold_is_that_of_the_discretisation(n: int, known: float) -> None:
    family = problems.bratu(problems.second_difference(n))
    (branch,) = trace(family, zeros(1, n), span=(0, 5), tracker=replace(TRACKER, max_steps=24))
    (fold,) = branch.folds
    assert abs(fold.lam - known) < TABLE


def test_bratu_by_collocation_has_the_continuous_fold_and_both_roots() -> None:
    family = problems.bratu(problems.chebyshev(32))
    (branch,) = trace(family, zeros(1, 31), span=(0, 5), tracker=replace(TRACKER, max_steps=35))
    a = 1.1996786402577  # a = coth a
    assert abs(branch.folds[0].lam - 8 * (a * a - 1)) < 1e-12
    # 32 points resolve the upper solution, which is steeper, to 2e-9.
    for lam, tops in ((1, (0.1405392144, 4.0914672462)), (2, (0.3289524213, 2.8955312655))):
        found = branch.roots(lam).amax(1)
        assert torch.allclose(found, found.new_tensor(tops), rtol=0, atol=2e-9)


def test_stability_changes_at_the_fold() -> None:
    family = problems.bratu(problems.second_difference(16))
    (branch,) = trace(
        family, zeros(1, 16), span=(0, 5), tracker=replace(TRACKER, max_steps=25), eigenvalues=1
    )
    before = branch.s < branch.folds[0].s
    assert branch.stable is not None
    assert branch.stable.tolist() == before.tolist()


def test_bratu_on_the_square() -> None:
    family = problems.bratu_square(problems.second_difference(15))
    (branch,) = trace(family, zeros(1, 15, 15), span=(0, 9), tracker=replace(TRACKER, max_steps=40))
    assert abs(branch.folds[0].lam - 6.802174) < 6e-7


def test_chandrasekhar() -> None:
    family = problems.chandrasekhar(100)
    tracker = replace(TRACKER, max_steps=40)
    (branch,) = trace(family, zeros(1, 100) + 1, span=(0, 1.5), tracker=tracker)
    # H at the fold is known to about sqrt(eps) only; c to second order in that.
    assert abs(branch.folds[0].lam - 1) < 1e-10
    assert abs(branch.folds[0].z.mean() - 2) < 1e-7
    for c in (0.6, 0.9):
        sums = branch.roots(c).mean(1).tolist()
        for total, sign in zip(sums, (-1, 1), strict=True):
            assert abs(total - 2 / c * (1 + sign * math.sqrt(1 - c))) < 1e-11
    lower = branch.roots(0.9)[:1]
    assert abs(lower.mean() - 1.519493853296) < 1e-12
    assert abs(lower[0, -1] - 1.847721717857) < 1e-12
    at = Equilibrium(lambda z: family(z, zeros(1) + 0.9))
    radius = leading_eigenvalues(at, lower, 1).abs().max()
    assert abs(radius - 0.48412) < 5e-6


@pytest.mark.parametrize("n", [1, 8])
@pytest.mark.parametrize("a", [2.0, 4.0])
def test_s_curve_folds_where_its_slope_is_infinite(a: float, n: int) -> None:
    (branch,) = trace(problems.s_curve(a, n), zeros(1, n) + 1, lam=4, direction=-1, span=(-4, 4))
    assert branch.status == Status.CONVERGED
    z = math.sqrt(1 - 1 / a)
    lam = math.atanh(z) - a * z
    assert len(branch.folds) == 2
    for sign, fold in zip((1, -1), branch.folds, strict=True):
        assert abs(fold.lam - sign * lam) < 1e-12
        assert (fold.z - sign * z).abs().max() < 1e-8  # first order in the slope left


def test_cubic_folds() -> None:
    (branch,) = trace(problems.cubic(), zeros(1, 1) - 2.1038)
    assert branch.lam[-1] == 1
    for fold, u, lam in zip(branch.folds, (-1, 1), (5 / 6, 1 / 6), strict=True):
        assert abs(fold.lam - lam) < 1e-12
        assert abs(fold.z[0] - u) < 1e-8


@pytest.mark.parametrize(
    ("edge", "known"),
    [(0.01, (4.0411604290, 3.1556507316)), (0.0, (4.0675621641, 3.1602002495))],
)
def test_chan_folds(edge: float, known: tuple[float, float]) -> None:
    (branch,) = trace(problems.chan(101, edge), zeros(1, 99) + edge, span=(0, 5))
    for fold, alpha in zip(branch.folds, known, strict=True):
        assert abs(fold.lam - alpha) < TABLE


def test_newton_homotopy_of_freudenstein_and_roth_folds_twice() -> None:
    problem, z0 = problems.freudenstein_roth(), torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    (branch,) = trace(Newton().of(problem, z0), z0, span=(-9, 1))
    for fold, lam in zip(branch.folds, (0.587, -0.686), strict=True):
        assert abs(fold.lam - lam) < 1e-3
    assert torch.allclose(branch.z[-1], branch.z.new_tensor([5.0, 4.0]), atol=1e-6)


def test_linear_path_has_its_closed_form() -> None:
    a = torch.randn(12, 12, dtype=torch.float64) / 7
    x, z0 = torch.randn(2, 1, 12, dtype=torch.float64)
    problem = Equilibrium(lambda z: z @ a.T + x)
    (branch,) = trace(FixedPoint().of(problem, z0), z0)
    eye = torch.eye(12, dtype=torch.float64)
    for z, lam in zip(branch.z, branch.lam, strict=True):
        exact = torch.linalg.solve(eye - lam * a, (1 - lam) * z0[0] + lam * x[0])
        assert (z - exact).norm() < 1e-5 * exact.norm()  # the corrector's 1e-6, times ||A^-1||


def test_the_border_is_kept_to_the_last_bit() -> None:
    family = Family(lambda z, lam: 0.5 * z + lam)
    for direction, end in ((1, 0.1), (-1, -0.3)):  # neither is a number of single precision
        (branch,) = trace(family, zeros(1, 1), direction=direction, span=(-0.3, 0.1))
        assert branch.lam[-1].item() == end
        assert branch.z[-1].item() == pytest.approx(2 * end, rel=1e-8)


@pytest.mark.parametrize("span", [(2e4, 3e4), (1e3, 2e5), (-3e4, -2e4), (1e8, 1e8 + 1)])
def test_a_finite_span_is_followed_to_its_end_however_far_it_lies(
    span: tuple[float, float],
) -> None:
    family = Family(lambda z, lam: 0.5 * z + lam / span[1])  # z = 2 lambda / span[1]
    (branch,) = trace(family, zeros(1, 1), lam=span[0], span=span)
    assert branch.status == Status.CONVERGED and branch.lam[-1] == span[1]
    assert branch.z[-1].item() == pytest.approx(2, rel=1e-6)


def test_batched_branches_are_those_of_one_at_a_time() -> None:
    """Branches that end at different steps, with the condition selected by row."""
    shift = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]

    def h(z: Tensor, lam: Tensor, shift: Tensor) -> Tensor:
        return torch.tanh(3 * z + lam + shift)

    z0 = zeros(6, 1) + 1
    settings = {"lam": 3.0, "direction": -1, "span": (-3, 3)}
    together = trace(Family(h, (shift,)), z0, **settings)
    for k, branch in enumerate(together):
        (alone,) = trace(Family(h, (shift[k : k + 1],)), z0[:1], **settings)
        # Rounding may decide when a correction to 1e-6 is done, and slide points along the curve.
        assert torch.allclose(branch.points(), alone.points(), atol=1e-4)
        folds = [fold.lam for fold in alone.folds]
        assert [fold.lam for fold in branch.folds] == pytest.approx(folds, abs=1e-12)


def test_a_start_without_a_root_is_lost() -> None:
    (branch,) = trace(Family(lambda z, lam: z + 1 + z * z + lam), zeros(1, 1))
    assert branch.status == Status.LOST_PATH
    assert len(branch.lam) == 1


def test_refined_points_lie_on_the_curve() -> None:
    (branch,) = trace(problems.s_curve(2.0), zeros(1, 1) + 1, lam=2, direction=-1, span=(-2, 2))
    z, lam = branch.refined(4)
    off = z[:, 0] - torch.tanh(2 * z[:, 0] + lam)
    assert off.abs().max() < 2e-3  # a cubic through steps of 0.2 is off by about 0.2^4
    assert torch.equal(z[::4], branch.z)


def test_leading_eigenvalues_agree_with_the_dense_ones() -> None:
    w = torch.randn(100, 100, dtype=torch.float64) / 10
    problem = Equilibrium(lambda z: z @ w.T)
    found = leading_eigenvalues(problem, zeros(1, 100), 3)
    dense = torch.linalg.eigvals(w)
    dense = dense[dense.real.argsort(descending=True)[:3]]
    assert torch.allclose(found.real, dense.real, atol=1e-7)
