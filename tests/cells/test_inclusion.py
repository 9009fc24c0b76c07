from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from homotopy_deq import FlowLayer, ImplicitLayer
from homotopy_deq.cells import (
    Bounds,
    ContractiveCell,
    FixedCell,
    InclusionCell,
    MonotoneCell,
    error_bound,
)
from homotopy_deq.cells.bounds import gram_norm
from solvers import (
    ODE,
    Adjoint,
    Anderson,
    ForwardBackward,
    Implicit,
    MonotoneInclusion,
    NewtonKrylov,
    PeacemanRachford,
    Solver,
    solve,
)
from tests.problems import DOUBLE, exact_gradient, normal

SHAPES = [(7,), (1,), (3, 4, 5), (2, 6, 4), (2, 2, 2)]
KINDS = [ContractiveCell, MonotoneCell]
TIGHT = [Anderson(rtol=1e-12), PeacemanRachford(rtol=1e-12, max_steps=1000)]
EXACT = Implicit(Anderson(rtol=1e-12))

every_cell = pytest.mark.parametrize("kind", KINDS)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def made(kind: Any, shape: tuple[int, ...], seed: int = 0, **settings: Any) -> InclusionCell:
    torch.manual_seed(seed)
    cell: InclusionCell = kind(shape, **settings)
    return cell


def matrix(cell: InclusionCell, weight: Tensor | None = None) -> Tensor:
    """W as a matrix of all entries, from the forward pass: column k is W e_k."""
    w = cell.weight().detach() if weight is None else weight
    n = math.prod(cell.shape)
    fixed = FixedCell(cell)
    fixed.matrix = w.double()
    units = torch.eye(n, dtype=DOUBLE).view(n, *cell.shape)
    return fixed.equation((units,)).linear(units).reshape(n, n).mT


def norm(w: Tensor) -> float:
    return float(torch.linalg.matrix_norm(w, 2))


def least(w: Tensor) -> float:
    return float(torch.linalg.eigvalsh(torch.eye(len(w), dtype=w.dtype) - (w + w.mT) / 2)[0])


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


# --- how far an evaluation is from the answer ---------------------------------------------------


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
    with pytest.raises(ValueError, match="computed in float32 or float64; got torch.bfloat16"):
        error_bound(x, x.bfloat16(), x, cell.bounds())
    assert not bool(error_bound(x * math.nan, x, x, cell.bounds()).isfinite().any())


# --- in a layer ---------------------------------------------------------------------------------


class Counting(MonotoneCell):
    """Counts how often its weight is built."""

    built = 0

    def compute(self) -> Tensor:
        self.built += 1
        return super().compute()


@pytest.mark.parametrize(
    "layer",
    [
        lambda cell: ImplicitLayer(cell),
        lambda cell: ImplicitLayer(cell, PeacemanRachford()),
        lambda cell: FlowLayer(cell, ODE(method="rk4", step_size=1.0)),
        lambda cell: FlowLayer(cell, ODE(method="rk4", step_size=1.0), polish=Anderson()),
    ],
    ids=["implicit", "splitting", "flow", "polished"],
)
def test_weight_is_built_once_a_solve(layer: Any) -> None:
    cell = Counting((6,), monotonicity=0.5)
    answer = layer(cell)(torch.randn(3, 6))
    answer.sum().backward()
    assert cell.built == 1
    assert all(bool((p.grad != 0).any()) for p in cell.parameters() if p.grad is not None)
    assert all(p.grad is not None for p in cell.parameters())


@pytest.mark.parametrize("solver", TIGHT, ids=["anderson", "splitting"])
@every_shape
@every_cell
def test_gradient_is_that_of_the_exact_jacobian(
    kind: Any, shape: tuple[int, ...], solver: Solver[Any, Any]
) -> None:
    cell = made(kind, shape).double()
    x = normal(1, 2, *shape).requires_grad_()
    z = ImplicitLayer(cell, solver, EXACT)(x)
    v = normal(2, *z.shape)
    z.backward(v)
    parameters = dict(cell.named_parameters())

    def f(z: Tensor, x: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(parameters, values, strict=True))
        out: Tensor = torch.func.functional_call(cell, named, (z, x))
        return out

    wanted = exact_gradient(f, z, (x, *parameters.values()), v)
    for found, exact in zip((x, *parameters.values()), wanted, strict=True):
        assert found.grad is not None
        torch.testing.assert_close(found.grad, exact, rtol=1e-7, atol=1e-8)


def test_second_derivatives_reach_the_parameters_behind_the_weight() -> None:
    cell = made(MonotoneCell, (3,)).double()
    x = normal(1, 2, 3)
    layer = ImplicitLayer(cell, Anderson(rtol=1e-13), Implicit(Anderson(rtol=1e-13)))

    def loss(gram: Tensor, skew: Tensor, x: Tensor) -> Tensor:
        values = {"cell.gram": gram, "cell.skew": skew}
        out: Tensor = torch.func.functional_call(layer, values, (x,))
        return out.square().sum()

    inputs = (cell.gram, cell.skew, x.requires_grad_())
    assert torch.autograd.gradgradcheck(loss, inputs, atol=1e-4)  # type: ignore[arg-type]


def test_adjoint_gradient_of_a_flow_is_that_of_its_steps() -> None:
    x, gradients = 5 + normal(1, 2, 4), []  # so that no ReLU has its kink on the way
    for rule in (Adjoint(), None):
        cell = made(ContractiveCell, (4,), contraction=0.3).double()
        ode = ODE(method="dopri5", rtol=1e-9, atol=1e-9)
        FlowLayer(cell, ode, rule)(x).square().sum().backward()
        gradients.append([p.grad for p in cell.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_layer_offers_the_equation_of_its_cell() -> None:
    cell, x = made(MonotoneCell, (4,)), torch.randn(3, 4)
    layer = ImplicitLayer(cell)
    problem = layer.equation(layer.condition(x))
    assert isinstance(problem, MonotoneInclusion)
    torch.testing.assert_close(problem(x), (x @ cell.weight().mT + x).relu())
    torch.testing.assert_close(cell(x, x), problem(x))
    with pytest.raises(ValueError, match=r"condition must have shape \(B, 4\); got \(3, 5\)"):
        layer(torch.randn(3, 5))


@pytest.mark.parametrize("solver", [NewtonKrylov(), PeacemanRachford()], ids=repr)
def test_inference_mode_changes_nothing(solver: Solver[Any, Any]) -> None:
    layer = ImplicitLayer(made(MonotoneCell, (4,)), solver)
    x = torch.randn(3, 4)
    with torch.inference_mode():
        found = layer(x)
    assert torch.equal(found, layer(x))


def test_autocast_leaves_the_weight_in_single_precision() -> None:
    for kind in KINDS:
        cell = made(kind, (16,))
        wanted = cell.weight()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(cell.weight(), wanted)
            z = ImplicitLayer(cell, Anderson(rtol=3e-2))(torch.randn(4, 16))
        assert z.dtype == torch.float32


def test_dropout_is_drawn_once_a_solve_and_leaves_the_weight_alone() -> None:
    cell = made(ContractiveCell, (6, 4, 4), dropout=0.5)
    x = torch.ones(20, 6, 4, 4)
    (dropped,) = cell.train().condition(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert bool((dropped == dropped[:, :, :1, :1]).all())  # whole channels
    assert cell.eval().condition(x)[0] is x


def test_a_fixed_cell_has_the_weight_of_its_moment() -> None:
    cell = made(MonotoneCell, (5,))
    fixed, x = FixedCell(cell), torch.randn(2, 5)
    assert torch.equal(fixed(x, x), cell(x, x)) and fixed.bounds() == cell.bounds()
    assert not list(fixed.parameters())
    before = fixed(x, x)
    with torch.no_grad():
        cell.gram.add_(1)  # type: ignore[union-attr]
    assert torch.equal(fixed(x, x), before)


def test_wrong_settings_are_named() -> None:
    for wrong in (0.0, 1.0, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"contraction must be in \(0, 1\)"):
            ContractiveCell((3,), contraction=wrong)
    for wrong in (0.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"monotonicity must be in \(0, 1\]"):
            MonotoneCell((3,), monotonicity=wrong)
    with pytest.raises(ValueError, match="kernel must be odd"):
        MonotoneCell((3, 4, 4), kernel=2)
    with pytest.raises(ValueError, match=r"shape must be \(n,\) or \(channels, height, width\)"):
        MonotoneCell((3, 4))
