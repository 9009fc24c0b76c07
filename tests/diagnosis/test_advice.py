"""What is advised follows from figures: linear maps of known eigenvalues, in double precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from homotopy_deq import Anderson, Equilibrium, NewtonKrylov, Picard
from homotopy_deq.diagnosis import Diagnosis, Remedy, diagnose_equation
from homotopy_deq.diagnosis.spectrum import KRYLOV, growth
from solvers import Solver, solve


def linear(
    matrix: Tensor,
    own: Solver[Any, Any] = Anderson(),  # noqa: B008
    **settings: Any,
) -> Diagnosis:
    """Diagnose z = A z + x."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, len(matrix), dtype=torch.float64, generator=generator)
    problem = Equilibrium(lambda z, x: z @ matrix.T + x, (x,))
    return diagnose_equation(problem, torch.zeros_like(x), own, **settings)


def symmetric(first: float, n: int = 20) -> Tensor:
    """Return a matrix with one eigenvalue of choice and others in [0, 1/2]."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))
    values = torch.linspace(0, 0.5, n, dtype=torch.float64)
    values[0] = first
    return basis @ torch.diag(values) @ basis.T


def remedies(found: Diagnosis) -> list[Remedy]:
    return [each.remedy for each in found.advice]


def test_a_map_that_contracts_and_is_solved_needs_nothing() -> None:
    assert remedies(linear(symmetric(0.9))) == []


def test_a_map_with_growth_1_3_gets_the_jacobian_penalty_and_no_damping() -> None:
    found = linear(symmetric(1.3))
    assert found.spectrum.growth.sub(1.3).abs().max() < 1e-6  # (.5 / 1.3)^25 is below 1e-10
    assert Remedy.PENALTY in remedies(found) and Remedy.CONTRACTION in remedies(found)
    assert Remedy.DAMPING not in remedies(found)


def test_a_map_near_the_edge_is_to_be_held_though_all_is_solved() -> None:
    assert remedies(linear(symmetric(0.97))) == [Remedy.PENALTY]


def test_damping_is_advised_where_no_real_part_reaches_one_and_does_what_was_said() -> None:
    matrix = symmetric(-1.3)
    found = linear(matrix, Picard())
    assert remedies(found)[:3] == [Remedy.DAMPING, Remedy.SOLVER, Remedy.PENALTY]
    # max(|1 - 2.3 b|, |1 - .5 b|) is least at b = 2 / 2.8 = .714; of the twentieths at .7
    assert "Picard(damping=0.7)" in found.advice[0].said and "0.65 a step" in found.advice[0].said
    x = torch.ones(1, len(matrix), dtype=torch.float64)
    problem = Equilibrium(lambda z, x: z @ matrix.T + x, (x,))
    assert solve(problem, Picard(damping=0.7), torch.zeros_like(x)).converged.all()
    assert not solve(problem, Picard(), torch.zeros_like(x)).converged.any()


def test_a_rotation_has_its_radius_though_its_products_are_orthogonal() -> None:
    """The power method of Rayleigh quotients returns 0 for it."""
    turn = 0.9 * torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    found = linear(turn)
    assert found.spectrum.growth.sub(0.9).abs().max() < 1e-12
    assert found.spectrum.radius.sub(0.9).abs().max() < 1e-12
    assert found.spectrum.rightmost.abs().max() < 1e-12
    assert found.spectrum.nonnormality.sub(1).abs().max() < 1e-12


@pytest.mark.parametrize("n", [12, 150])
def test_leading_eigenvalues_are_those_of_the_matrix(n: int) -> None:
    """All of them up to 60 entries; of 150 the five that stand out, which Krylov spaces find first:
    those inside the disk of 1/2 are damped by (1/2)^60 beside one of modulus 1."""
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(n, n, dtype=torch.float64, generator=generator)
    matrix = 0.5 * matrix / torch.linalg.eigvals(matrix).abs().max()
    u, _ = torch.linalg.qr(torch.randn(n, 5, dtype=torch.float64, generator=generator))
    matrix = matrix + u @ torch.diag(torch.tensor([3.0, -2.5, 2, -1.8, 1.5]).double()) @ u.T
    exact = torch.linalg.eigvals(matrix)
    exact = exact[exact.abs().argsort(descending=True)]
    found = linear(matrix).spectrum
    count = n if n <= KRYLOV else 5
    for row in found.eigenvalues:
        nearest = (row[:, None] - exact[None, :count]).abs().amin(0)
        assert nearest.max() < 1e-6
    assert torch.allclose(found.norm, torch.linalg.matrix_norm(matrix, 2), rtol=0.02)


def test_a_jordan_block_is_far_from_normal_and_told_so_where_it_is_not_solved() -> None:
    block = torch.tensor([[0.5, 10.0], [0.0, 0.5]], dtype=torch.float64)
    found = linear(block, Picard(max_steps=3))
    # sigma_1 = (10 + sqrt(101)) / 2 for the block: sigma_1 sigma_2 = 1/4, sigma_1 - sigma_2 = 10
    sigma = (10 + 101**0.5) / 2
    assert found.spectrum.norm.sub(sigma).abs().max() < 1e-6
    assert found.spectrum.nonnormality.sub(2 * sigma).abs().max() < 1e-4
    assert remedies(found) == [Remedy.SOLVER, Remedy.CONTRACTION, Remedy.START]


def test_another_solver_is_advised_with_the_share_and_the_cost_that_were_measured() -> None:
    found = linear(symmetric(0.9), Picard(max_steps=20), solvers={"Newton": NewtonKrylov()})
    advice = next(each for each in found.advice if each.remedy is Remedy.SOLVER)
    cost = found.tried["Newton"].cost
    assert f"NewtonKrylov(rtol=0.0001, max_steps=50) solves 100% of the samples in {cost:.0f}" in (
        advice.said
    )


def test_where_no_solver_solves_more_a_path_is_named() -> None:
    """f jumps over its diagonal, so it has no root."""
    problem = Equilibrium(lambda z: torch.where(z > 0, -1.0, 1.0) + 0.1 * z)
    found = diagnose_equation(problem, torch.full((3, 2), 0.5))
    advice = next(each for each in found.advice if each.remedy is Remedy.SOLVER)
    assert not found.solved.any() and "Robust()" in advice.said
    assert any("not at a root" in str(cell) for cell in found.table().columns[1].cells)


def test_a_solve_that_stops_early_where_the_map_contracts_needs_a_nearer_start() -> None:
    found = linear(symmetric(0.5), Picard(max_steps=2))
    assert remedies(found) == [Remedy.SOLVER, Remedy.START]
    assert "more steps than 2" in found.advice[-1].said


def test_an_absolute_tolerance_is_told_as_what_it_asks_of_the_median_sample() -> None:
    x = torch.randn(5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    own = Picard(rtol=0.0, atol=1e-3)
    found = diagnose_equation(Equilibrium(lambda z, x: x - 1.5 * z, (x,)), torch.zeros_like(x), own)
    assert found.rtol == pytest.approx((1e-3 / (x / 2.5).norm(dim=1)).median().item(), rel=1e-2)
    said = {each.remedy: each.said for each in found.advice}
    assert "contracts near the answers of 100%" in said[Remedy.DAMPING]
    assert "atol=0.001" in said[Remedy.SOLVER]


def test_growth_of_a_power_is_the_mean_of_its_second_half() -> None:
    turn = torch.tensor([[0.0, -4.0], [1.0, 0.0]], dtype=torch.float64)  # eigenvalues +-2i
    rate = growth(lambda v: v @ turn.T, torch.randn(8, 2, dtype=torch.float64), steps=40)
    assert rate.sub(2).abs().max() < 1e-12  # two steps together are 4 I, and half of 40 is even


def test_a_map_that_a_solver_cannot_take_is_told_and_the_others_are_measured() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, z: Tensor) -> Tensor:
            return 0.5 * z

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 0.5 * grad

    x = torch.ones(2, 3)
    found = diagnose_equation(Equilibrium(lambda z, x: Once.apply(z) + x, (x,)), torch.zeros(2, 3))
    assert found.tried["NewtonKrylov"].failed and found.tried["Picard"].solved == 1
    assert found.spectrum.norm.isnan().all() and found.spectrum.growth.sub(0.5).abs().max() < 1e-6
    assert found.figures()["Jacobian"]["||J||"]["median"] is None


def test_table_plot_and_json_hold_what_was_measured(tmp_path: Path) -> None:
    found = linear(symmetric(1.3))
    table = found.table()
    rows = dict(zip(*(list(column.cells) for column in table.columns), strict=True))
    assert "worst 1.3" in rows["growth of J^T"] and "its own, Anderson" in rows
    assert found.plot(tmp_path / "new" / "d.png").stat().st_size > 1000
    body = json.loads(json.dumps(found.figures()))
    assert body["advice"] == [str(each) for each in found.advice]
    assert body["solvers"]["Picard"]["solved"] == 0
