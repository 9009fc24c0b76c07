"""Jacobians that are formed: exact, counted, and the same in whatever way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from solvers.homotopy import Family
from solvers.homotopy.curve import Curve, Factors
from solvers.jacobian import Linearization
from solvers.linear import GMRES, Dense, LinearSolver, factor
from solvers.problem import Counter

DOUBLE = torch.float64


def f(z: Tensor) -> Tensor:
    """Return (B, 2) of (B, 3)."""
    return torch.stack((z[:, 0] * z[:, 1], torch.sin(z[:, 2]) + z[:, 0]), dim=1)


@pytest.mark.parametrize("weights", [False, True])
def test_jacobian_has_its_closed_form(weights: bool) -> None:
    z = torch.randn(4, 3, dtype=DOUBLE)
    zero = torch.zeros(4, dtype=DOUBLE)
    first = torch.stack((z[:, 1], z[:, 0], zero), dim=1)
    second = torch.stack((zero + 1, zero, torch.cos(z[:, 2])), dim=1)
    exact = torch.stack((first, second), dim=1)
    condition = (torch.zeros(4, 4),) if weights else ()  # as many as a matrix for each sample
    found = Linearization(f, z, condition=condition).matrix()
    assert torch.allclose(found, exact, rtol=0, atol=1e-15)


def test_a_row_counts_as_an_evaluation() -> None:
    counter = Counter(f)
    Linearization(counter, torch.randn(4, 3, dtype=DOUBLE), counter).matrix()
    assert counter.count == 1 + 2


def test_jacobian_of_a_constant_is_zero() -> None:
    z = torch.randn(2, 3)
    assert Linearization(lambda z: torch.ones(2, 3), z).matrix().abs().max() == 0


def test_factors_solve_with_another_row_in_place_of_their_own() -> None:
    a = torch.randn(5, 3, 4, dtype=DOUBLE)
    null = torch.linalg.svd(a)[2][:, -1]
    row = null + 0.3 * torch.randn(5, 4, dtype=DOUBLE)
    factors = Factors(*factor(torch.cat((a, row[:, None]), dim=1)), null)
    b, c = torch.randn(5, 3, dtype=DOUBLE), torch.randn(5, dtype=DOUBLE)
    for other in (null, null + 0.3 * torch.randn(5, 4, dtype=DOUBLE)):
        x = factors.solve(b, c, other)
        assert torch.allclose(torch.bmm(a, x[:, :, None])[:, :, 0], b, atol=1e-10)
        assert torch.allclose((other * x).sum(1), c, atol=1e-10)


@pytest.mark.parametrize("direction", [[1.0, 1.0], [1.0, -1.0], [1.0, 0.0], [2.0, 1.0]])
@pytest.mark.parametrize("linear", [GMRES(3), Dense()], ids=lambda each: type(each).__name__)
def test_lost_rank_is_seen_whatever_direction_is_lost(
    direction: list[float], linear: LinearSolver
) -> None:
    """h(z) - z = (I - u u^T) z has the lost direction u; in the second sample none is lost."""
    u = torch.tensor(direction, dtype=DOUBLE)
    u = u / u.norm()
    kept = torch.stack((torch.eye(2, dtype=DOUBLE) - torch.outer(u, u), torch.eye(2, dtype=DOUBLE)))
    family = Family(lambda z, lam, a: z + torch.einsum("bij,bj->bi", a, z) + 0 * lam, (kept,))
    w, guide = torch.zeros(2, 3, dtype=DOUBLE), torch.tensor([[0.0, 0.0, 1.0]] * 2, dtype=DOUBLE)
    curve = Curve(family, torch.Size([2]), 0.5, torch.ones(2, dtype=DOUBLE))
    assert curve.singular(w, guide, linear).tolist() == [True, False]
