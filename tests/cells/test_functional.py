"""What one evaluation says of linear functions of the equilibrium."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from homotopy_deq.cells.bounds import error_bound, rounding
from homotopy_deq.cells.functional import FunctionalBound, Spectrum
from homotopy_deq.cells.inclusion import ContractiveCell, FixedCell, InclusionCell, MonotoneCell
from solvers import PeacemanRachford, solve

SHAPES = ((17,), (3, 4, 5))


def cell(kind: int, shape: tuple[int, ...], seed: int) -> InclusionCell:
    torch.manual_seed(seed)
    made: InclusionCell = (
        ContractiveCell(shape, contraction=0.95) if kind == 0 else MonotoneCell(shape)
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1 + 2 * torch.rand(()))  # larger than at the start, as after training
    return FixedCell(made)


def truth(made: InclusionCell, x: Tensor) -> Tensor:
    """Return z* for the float32 W and x, to 1e-11."""
    exact = FixedCell(made).double()
    problem = exact.equation((x.double(),))
    found = solve(
        problem, PeacemanRachford(rtol=1e-13, max_steps=5000), torch.zeros_like(problem.x)
    )
    return found.check().value


def margins(
    bound: FunctionalBound, z: Tensor, fz: Tensor, x: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    """Return m and r with |(C_first - C_j) z* - m_j| <= r_j, each (B, K)."""
    centre = bound.center(z, fz, bound.products(fz.dtype))
    eta = rounding(z, fz, x, bound.bounds)
    at = centre.at
    return at[:, [first]] - at, bound.radius(centre, eta, bound.sizes()[:, [first]])


@pytest.mark.parametrize("kind", (0, 1))
@pytest.mark.parametrize("shape", SHAPES)
def test_bound_holds_wherever_the_state_is_and_is_sharper_than_the_norms(
    kind: int, shape: tuple[int, ...]
) -> None:
    ratios = []
    for seed in range(6):
        made = cell(kind, shape, seed)
        c = torch.randn(4, torch.Size(shape).numel())
        bound = FunctionalBound.of(made, c)
        x = torch.randn(8, *shape)
        z_star = truth(made, x)
        scale = 10.0 ** -torch.arange(8).view(-1, *(1,) * len(shape))  # from afar to rounding
        z = (z_star + scale * torch.randn(8, *shape)).float()
        with torch.no_grad():
            fz = made(z, x)
        for first in range(4):
            middle, radius = margins(bound, z, fz, x, first)
            at = z_star.flatten(1) @ c.double().mT
            error = (at[:, [first]] - at - middle).abs()
            assert bool((error <= radius).all())
            apart = (c[first] - c).double().norm(dim=1)
            plain = error_bound(z, fz, x, bound.bounds)[:, None] * apart
            others = torch.arange(4) != first
            ratios.append((radius / plain)[:4, others])  # later the rounding dominates both
    # Sharper by 2 at least, as the ball around the centre has half the radius of one around fz.
    assert float(torch.cat(ratios).max()) < 0.75
    assert float(torch.cat(ratios).median()) < 0.5


def test_bound_is_attained_on_a_line() -> None:
    # n = 1, W = w > 0, x > 0: fz - z* = w d / (1 - w), and centre + radius is just that.
    made = cell(0, (1,), 0)
    made.matrix.fill_(0.5)  # type: ignore[operator]
    bound = FunctionalBound.of(made, torch.tensor([[1.0], [0.0]]))
    x, z = torch.tensor([[1.0]]), torch.tensor([[3.0]])
    with torch.no_grad():
        fz = made(z, x)
    middle, radius = margins(bound, z, fz, x, 0)
    # z* = 2 and fz = 2.5; the margin of row 0 over row 1 is z* itself.
    assert float(middle[0, 1] - radius[0, 1]) == pytest.approx(2.0, abs=1e-5)
    assert float(middle[0, 1] - radius[0, 1]) <= 2.0


def test_nothing_is_bounded_where_it_is_too_badly_conditioned() -> None:
    made = cell(0, (2,), 0)
    made.matrix.copy_((1 - 1e-7) * torch.eye(2))  # type: ignore[operator]
    with pytest.raises(ValueError, match="condition number"):
        FunctionalBound.of(made, torch.eye(2))


@pytest.mark.parametrize("shape", SHAPES)
def test_directions_split_the_gap_as_the_singular_values_do(shape: tuple[int, ...]) -> None:
    made = cell(1, shape, 0).double()
    n = torch.Size(shape).numel()
    basis = torch.eye(n, dtype=torch.float64).view(n, *shape)
    w = made.equation((torch.zeros_like(basis),)).linear(basis).reshape(n, n).mT
    s = torch.eye(n, dtype=torch.float64) - (w + w.mT) / 2
    scaled = torch.linalg.solve_triangular(torch.linalg.cholesky(s), w, upper=False)
    exact = torch.linalg.svdvals(scaled)
    c = torch.randn(3, n, dtype=torch.float64)
    found = Spectrum.of(made.shape, made.weight(), c)
    kept = len(found.sizes)
    assert torch.allclose(found.sizes.sort(descending=True).values, exact[:kept], rtol=1e-9)
    assert found.rest == pytest.approx(float(exact[kept]), rel=1e-9)
    images = found.directions @ scaled.mT  # S^-1/2 W v_i, orthogonal and of size s_i
    assert torch.allclose(images @ images.mT, torch.diag(found.sizes**2), atol=1e-9)
    assert torch.allclose(found.solved, torch.linalg.solve(s, c.mT).mT, atol=1e-9)
    assert torch.allclose(found.pulled, torch.linalg.solve(s, c.mT).mT @ w, atol=1e-9)


def test_what_all_rows_share_costs_no_soundness() -> None:
    # Rows that differ by 1e-8 of their length: differences taken late would cancel to nothing.
    for seed in range(10):
        made = cell(seed % 2, (17,), seed)
        torch.manual_seed(seed)
        c = (1e8 * torch.randn(1, 17) + torch.randn(4, 17)).float()
        bound = FunctionalBound.of(made, c)
        x = torch.randn(8, 17)
        z_star = truth(made, x)
        z = (z_star + 0.1 * torch.randn(8, 17)).float()
        with torch.no_grad():
            fz = made(z, x)
        rows = c.double()
        for first in range(4):
            middle, radius = margins(bound, z, fz, x, first)
            exactly = z_star @ (rows[first] - rows).mT
            assert bool(((exactly - middle).abs() <= radius).all())


def test_one_pixel_of_one_channel_is_bounded_too() -> None:
    made = cell(0, (1, 1, 1), 0)
    bound = FunctionalBound.of(made, torch.tensor([[1.0], [-1.0]]))
    x = torch.tensor([[[[0.7]]]])
    z_star = truth(made, x)
    z = z_star.float() + 0.3
    with torch.no_grad():
        fz = made(z, x)
    middle, radius = margins(bound, z, fz, x, 0)
    assert bool(((2 * z_star.flatten() - middle[0, 1]).abs() <= radius[0, 1]).all())
