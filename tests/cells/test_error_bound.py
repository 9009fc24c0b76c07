"""How far an evaluation is from the answer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from homotopy_deq.cells import (
    ContractiveCell,
    FixedCell,
    InclusionCell,
    MonotoneCell,
    error_bound,
)
from solvers import (
    Anderson,
    solve,
)
from tests.problems import DOUBLE, normal

from .cases import every_cell, made, matrix


def truth(cell: InclusionCell, x: Tensor) -> Tensor:
    """The answer for W and x as they are stored in float32, in double precision.

    Which entries are positive is guessed by a rough solve, and mended: given these, the equation
    is linear (the semismooth Newton method, which ends at an answer).
    """
    problem = cell.equation((x,))
    rough = solve(problem, Anderson(rtol=1e-5), torch.zeros_like(x)).value
    w, b, z = matrix(cell), x.double().flatten(1), rough.detach().double().flatten(1)
    for _ in range(50):
        on = (z @ w.mT + b > 0).double()
        system = torch.eye(len(w), dtype=DOUBLE) - on[:, :, None] * w
        after = torch.linalg.solve(system, on * b)
        if torch.equal(after, z):
            break
        z = after
    far = ((z @ w.mT + b).relu() - z).norm(dim=1)
    assert bool((far <= 1e-13 * z.norm(dim=1)).all())
    return z.view_as(x)


@pytest.mark.parametrize("shape", [(24,), (4, 4, 4)], ids=str)
@every_cell
def test_error_never_exceeds_its_bound_and_the_bound_is_near(
    kind: Any, shape: tuple[int, ...]
) -> None:
    ratios = []
    for seed in range(75):  # times two kinds and two shapes: 300 cells
        scale = 10.0 ** (seed % 7 - 3)
        cell = made(kind, shape, seed)
        x = scale * normal(seed, 8, *shape, dtype=torch.float32)
        problem, bounds, answer = cell.equation((x,)), cell.bounds(), truth(cell, x)
        near = answer.float()
        away = near + scale * 10.0 ** -(seed % 9) * normal(seed + 1, *x.shape, dtype=torch.float32)
        for z in (near, away):
            with torch.no_grad():
                fz = problem(z)
            error = (fz.double() - answer).flatten(1).norm(dim=1)
            bound = error_bound(z, fz, x, bounds)
            # The reference is exact to 1e-13 of its size over m >= 0.1.
            noise = 1e-12 * answer.flatten(1).norm(dim=1)
            assert bool((error <= bound + noise).all())
            if z is away and seed % 9 < 4:  # where rounding is none of it
                ratios.append(bound / error)
    # 1/m is up to 10 and J shrinks some directions; worst cases are met below.
    assert 1 <= float(torch.cat(ratios).median()) < 30


def test_a_state_that_rounding_holds_is_not_taken_for_the_answer() -> None:
    # In float32 plain iteration comes to rest where f(z) = z to the bit; the answer is elsewhere,
    # and the bound without its term for rounding would be 0.
    cell = made(ContractiveCell, (24,), contraction=0.5)
    x = normal(1, 64, 24, dtype=torch.float32)
    problem, z = cell.equation((x,)), torch.zeros_like(x)
    with torch.no_grad():
        for _ in range(100):
            z = problem(z)
        at_rest = (problem(z) == z).all(1)
    error = (z.double() - truth(cell, x)).norm(dim=1)[at_rest]
    bound = error_bound(z, z, x, cell.bounds())[at_rest]
    assert int(at_rest.sum()) > 10 and bool((error > 1e-9).all())
    assert bool((error <= bound).all())
    # n u || |W| || ||z|| is for the worst signs of all roundings; they are random here.
    assert float((bound / error).median()) < 300


@given(contraction=st.floats(0.1, 0.95), seed=st.integers(0, 50))
def test_bound_is_attained(contraction: float, seed: int) -> None:
    # W = c I and z > 0: f(z) - z* = c (z - z*), f(z) - z = -(1 - c) (z - z*), m = 1 - c.
    cell = FixedCell(made(MonotoneCell, (5,), seed))
    cell.matrix = contraction * torch.eye(5, dtype=DOUBLE)
    answer, z = 1 + normal(seed, 2, 3, 5).abs()
    x = (1 - contraction) * answer
    fz = cell(z, x)
    error = (fz - answer).norm(dim=1)
    bound = error_bound(z, fz, x, cell.bounds())
    assert bool((error <= bound).all())
    torch.testing.assert_close(bound, error, rtol=1e-9, atol=1e-12)


def test_bound_is_of_the_precision_that_was_computed_in() -> None:
    cell = made(MonotoneCell, (6,))
    x = normal(0, 2, 6, dtype=torch.float32)
    single = error_bound(x, x, x, cell.bounds())  # fz = z: only rounding is left
    double = error_bound(x.double(), x.double(), x.double(), cell.bounds())
    torch.testing.assert_close(single, double * 2**29, rtol=1e-5, atol=0)
    with pytest.raises(ValueError, match="bfloat16"):
        error_bound(x, x.bfloat16(), x, cell.bounds())
    assert not bool(error_bound(x * math.nan, x, x, cell.bounds()).isfinite().any())
