"""Weights keep what their parametrisation promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from homotopy_deq.cells import (
    Bounds,
    ContractiveCell,
    FixedCell,
    InclusionCell,
    MonotoneCell,
)
from homotopy_deq.cells.bounds import gram_norm
from solvers import (
    Anderson,
    ForwardBackward,
    PeacemanRachford,
    solve,
)
from tests.problems import DOUBLE, normal

from .cases import every_cell, every_shape, least, made, matrix, norm


@every_shape
@every_cell
def test_bounds_are_those_of_the_matrix_rounded_outward(kind: Any, shape: tuple[int, ...]) -> None:
    cell = made(kind, shape)
    w, bounds = matrix(cell), cell.bounds()
    # The slack is 16 n u ||W||_F, at most 1e-11 here; the reference's own error is far below.
    assert 0 < bounds.norm - norm(w) < 1e-11
    assert 0 < least(w) - bounds.monotonicity < 1e-11
    # sqrt(||.||_1 ||.||_inf) is at most sqrt(n) too large, and has its own outward rounding.
    assert norm(w.abs()) <= bounds.absolute <= norm(w.abs()) * math.sqrt(len(w)) * (1 + 1e-12)
    assert bounds.monotonicity >= 1 - bounds.norm - 1e-10


@every_shape
@given(contraction=st.floats(0.05, 0.99), m=st.floats(0.01, 1.0), seed=st.integers(0, 50))
def test_weights_keep_what_their_parametrisation_promises(
    shape: tuple[int, ...], contraction: float, m: float, seed: int
) -> None:
    # W is built in float32, 1e-6 of whose size is some rounding; so is the raw parameters' scale
    # of no meaning to a contraction.
    contractive = made(ContractiveCell, shape, seed, contraction=contraction)
    with torch.no_grad():
        contractive.raw.mul_(100.0)  # type: ignore[operator]
    bounds = contractive.bounds()
    # Gram iteration: at most n^(1/128) too large, 1.9% for the largest n here, 12.
    assert contraction * 0.98 <= bounds.norm <= contraction * (1 + 1e-5)
    loose = made(MonotoneCell, shape, seed, monotonicity=m)
    with torch.no_grad():
        for parameter in loose.parameters():
            parameter.mul_(3.0)
    assert loose.bounds().monotonicity >= m - 1e-4  # of ||W|| up to 60


def test_convolution_is_the_composition_of_its_parts() -> None:
    m, cell = 0.3, made(MonotoneCell, (3, 5, 4), monotonicity=0.3).double()
    parts = [matrix(cell, p.detach()) for p in (cell.gram, cell.skew)]  # type: ignore[union-attr]
    a, b = parts
    wanted = (1 - m) * torch.eye(60, dtype=DOUBLE) - a.mT @ a + b - b.mT
    torch.testing.assert_close(matrix(cell), wanted, rtol=1e-12, atol=1e-12)
    assert cell.weight().shape == (3, 3, 5, 5)


@every_shape
@every_cell
def test_resolvent_is_that_of_the_matrix(kind: Any, shape: tuple[int, ...]) -> None:
    cell = made(kind, shape).double()
    n, alpha = math.prod(shape), 0.7
    v = normal(0, 4, *shape)
    problem = cell.equation((v,))
    assert problem.resolvent is not None
    eye = torch.eye(n, dtype=DOUBLE)
    system = eye + alpha * (eye - matrix(cell))
    wanted = torch.linalg.solve(system, v.flatten(1).mT).mT.view_as(v)
    torch.testing.assert_close(problem.resolvent(alpha)(v), wanted, rtol=1e-11, atol=1e-11)


@every_shape
@every_cell
def test_all_solvers_agree_in_single_precision(kind: Any, shape: tuple[int, ...]) -> None:
    cell = made(kind, shape, monotonicity=0.3) if kind is MonotoneCell else made(kind, shape)
    x = normal(3, 6, *shape, dtype=torch.float32)
    start, problem = torch.zeros_like(x), cell.equation((x,))
    wanted = solve(problem, Anderson(rtol=1e-6), start).check().value
    for solver in (ForwardBackward(rtol=1e-6, max_steps=2000), PeacemanRachford(rtol=1e-6)):
        value = solve(problem, solver, start).check().value
        torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-4)


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), seed=st.integers(0, 99))
def test_gram_iteration_bounds_the_norm_from_above_at_every_step(
    rows: int, columns: int, seed: int
) -> None:
    real, imaginary = normal(seed, 2, 4, rows, columns)
    matrices = torch.complex(real, imaginary)
    exact = float(torch.linalg.matrix_norm(matrices, 2).amax())
    found = [float(gram_norm(matrices, t)) for t in range(8)]
    rank = min(rows, columns)
    for t, bound in enumerate(found):
        assert exact * (1 - 1e-12) <= bound <= exact * rank ** (2 ** -(t + 1)) * (1 + 1e-12)
    for scale in (1e-150, 1e150):  # no power of which fits in double precision
        torch.testing.assert_close(float(gram_norm(scale * matrices)) / scale, found[6])


@every_shape
@every_cell
def test_weight_is_differentiated_through_its_bound(kind: Any, shape: tuple[int, ...]) -> None:
    cell = made(kind, shape).double()
    parameters = dict(cell.named_parameters())

    def weight(*values: Tensor) -> Tensor:
        named = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(_Weight(cell), {f"cell.{k}": v for k, v in named.items()})

    torch.autograd.gradcheck(weight, tuple(parameters.values()))


class _Weight(torch.nn.Module):
    def __init__(self, cell: InclusionCell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self) -> Tensor:
        return self.cell.weight()


def test_what_is_not_monotone_or_not_finite_is_not_certified() -> None:
    for shape in ((4,), (2, 4, 4)):
        cell = made(MonotoneCell, shape)
        with torch.no_grad():
            cell.skew.fill_(float("nan"))  # type: ignore[union-attr]
        with pytest.raises(ValueError, match="not finite"):
            cell.bounds()
        fixed = FixedCell(made(MonotoneCell, shape))
        fixed.matrix = 30 * fixed.matrix
        with pytest.raises(ValueError, match="not proved to be strongly monotone"):
            fixed.bounds()
    with pytest.raises(ValueError, match="not proved"):
        Bounds(0.5, 0.0, 1.0, 3)
    with pytest.raises(ValueError, match="not finite"):
        Bounds(math.inf, 0.5, 1.0, 3)


@every_shape
def test_a_fixed_cell_inverts_once_a_step_size_and_anew_for_other_numbers(
    shape: tuple[int, ...],
) -> None:
    fixed, x = FixedCell(made(MonotoneCell, shape)).double(), normal(7, 3, *shape)

    def error(alpha: float) -> tuple[Any, float]:
        problem = fixed.equation((x,))
        assert problem.resolvent is not None
        inverse = problem.resolvent(alpha)
        v = normal(8, 3, *shape)
        y = inverse(v)
        return inverse, float((y + alpha * (y - problem.linear(y)) - v).norm() / v.norm())

    with torch.inference_mode():  # what is kept is of use outside
        first, size = error(0.5)
    assert size < 1e-12
    again, size = error(0.5)
    assert again is first and size < 1e-12
    other, size = error(0.25)
    assert other is not first and size < 1e-12
    fixed.matrix = 0.5 * fixed.matrix
    anew, size = error(0.5)
    assert anew is not first and size < 1e-12
    fixed.load_state_dict({"matrix": 0.5 * fixed.matrix})
    loaded, size = error(0.5)
    assert loaded is not anew and size < 1e-12
    assert error(0.5)[0] is loaded
    x.requires_grad_()
    answer = solve(
        fixed.equation((x,)), PeacemanRachford(step_size=0.5, rtol=1e-12), normal(9, 3, *shape)
    )
    assert answer.converged.all()


@every_shape
def test_a_resolvent_is_differentiated_by_a_weight_that_takes_the_fixed_ones_place(
    shape: tuple[int, ...],
) -> None:
    fixed, v = FixedCell(made(MonotoneCell, shape)).double(), normal(8, 2, *shape)
    problem = fixed.equation((v,))
    assert problem.resolvent is not None
    problem.resolvent(0.5)  # kept, and of no use to what follows
    weight = fixed.matrix.clone().requires_grad_()
    fixed.matrix = weight
    for alpha in (0.5, 0.25):
        problem = fixed.equation((v,))
        assert problem.resolvent is not None
        got, wanted = problem.resolvent(alpha)(v), fixed.operator(weight).resolvent(alpha)(v)
        assert got.requires_grad
        (one,) = torch.autograd.grad(got.square().sum(), weight)
        (other,) = torch.autograd.grad(wanted.square().sum(), weight)
        torch.testing.assert_close(one, other)
