"""What the linear part of a cell says of itself, against the matrix of all entries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from homotopy_deq.cells import MonotoneCell
from homotopy_deq.cells.linear import Circular, Linear, Matrix
from solvers import Anderson, PeacemanRachford, solve
from solvers.structure import offered
from tests.problems import DOUBLE, normal

from .cases import SHAPES, every_shape, made, matrix, norm

EXACT = {"rtol": 1e-12, "atol": 1e-12}  # a few hundred roundings in double precision


def linear(shape: tuple[int, ...], seed: int = 0) -> tuple[Linear, Tensor]:
    """The linear part of a cell in double precision, and its matrix."""
    cell = made(MonotoneCell, shape, seed).double()
    return cell.operator(cell.weight().detach()), matrix(cell)


def applied(w: Tensor, z: Tensor) -> Tensor:
    return (z.flatten(1) @ w.mT).view(len(z), -1, *z.shape[2:])


@every_shape
def test_columns_carry_a_change_of_some_entries(shape: tuple[int, ...]) -> None:
    """W (z + d) = W z + W d, where d is 0 but in some features or channels."""
    f, w = linear(shape)
    index = torch.randperm(shape[0], generator=torch.Generator().manual_seed(1))[
        : 1 + shape[0] // 2
    ]
    z, change = normal(2, 3, *shape), torch.zeros(3, *shape, dtype=DOUBLE)
    change[:, index] = normal(3, 3, len(index), *shape[1:])
    part = f.columns(index)
    torch.testing.assert_close(f(z) + part(change[:, index]), applied(w, z + change), **EXACT)
    share = len(index) / shape[0]
    assert part.multiply_adds(change[:, index]) == share * f.multiply_adds(z)


@every_shape
def test_lipschitz_is_the_norm_from_above_and_to_rounding(shape: tuple[int, ...]) -> None:
    f, w = linear(shape)
    index = torch.arange(0, shape[0], 2)
    keep = torch.arange(math.prod(shape)).view(shape)[index].flatten()
    for found, exact in (
        (f.lipschitz(), norm(w)),
        (f.columns(index).lipschitz(), norm(w[:, keep])),
    ):
        assert exact * (1 - 1e-14) <= found <= exact * (1 + 1e-11)  # 16 n u (1 + ||W||) of slack


@every_shape
def test_moduli_and_resolvent_are_those_of_the_matrix(shape: tuple[int, ...]) -> None:
    f, w = linear(shape)
    a = torch.eye(len(w), dtype=DOUBLE) - w
    m, size = f.moduli()
    assert m == pytest.approx(float(torch.linalg.eigvalsh((a + a.mT) / 2)[0]), rel=1e-9)
    assert norm(a) * (1 - 1e-12) <= size <= norm(a) * len(w) ** 2**-7  # as `gram_norm` says
    v = normal(1, 2, *shape)
    solved = torch.linalg.inv(torch.eye(len(w), dtype=DOUBLE) + 0.7 * a)
    torch.testing.assert_close(f.resolvent(0.7)(v), applied(solved, v), **EXACT)


def test_work_is_a_product_for_each_entry_that_is_summed() -> None:
    assert Matrix(torch.ones(5, 7)).multiply_adds(torch.ones(3, 7)) == 3 * 5 * 7
    image = Circular(torch.ones(5, 7, 3, 3), (4, 6))
    assert image.multiply_adds(torch.ones(2, 7, 4, 6)) == 2 * 4 * 6 * 5 * 7 * 9


@pytest.mark.parametrize("shape", SHAPES[:3:2], ids=str)
def test_the_equation_of_a_cell_offers_it_and_a_solve_says_its_work(shape: tuple[int, ...]) -> None:
    cell = made(MonotoneCell, shape).double()
    problem = cell.equation((normal(1, 1, *shape),))
    bound = offered(problem.map, "lipschitz")
    assert bound is not None and bound() == cell.bounds().norm
    found = solve(problem, Anderson(), problem.x).check()
    assert found.work == int(found.evals) * cell.operator(cell.weight()).multiply_adds(problem.x)
    direct = solve(problem, PeacemanRachford(max_steps=500), problem.x).check()
    assert (direct.work is None) == (len(shape) > 1)  # Fourier transforms are not counted


@every_shape
def test_the_map_stretches_no_more_than_its_linear_part(shape: tuple[int, ...]) -> None:
    cell = made(MonotoneCell, shape).double()
    problem = cell.equation((normal(1, 50, *shape),))
    a, b = normal(2, 50, *shape), normal(3, 50, *shape)
    with torch.no_grad():
        moved = (problem(a) - problem(b)).flatten(1).norm(dim=1)
        most = cell.bounds().norm * (a - b).flatten(1).norm(dim=1)
    assert bool((moved <= most + 1e-13).all())  # both sides round
