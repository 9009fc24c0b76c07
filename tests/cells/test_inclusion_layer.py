"""Cells with one equilibrium in a layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from homotopy_deq import FlowLayer, ImplicitLayer
from homotopy_deq.cells import (
    ContractiveCell,
    FixedCell,
    MonotoneCell,
)
from solvers import (
    ODE,
    Adjoint,
    Anderson,
    Flow,
    Implicit,
    MonotoneInclusion,
    NewtonKrylov,
    PeacemanRachford,
    Solver,
    Then,
)
from tests.problems import exact_gradient, normal

from .cases import EXACT, KINDS, TIGHT, every_cell, every_shape, made


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
        lambda cell: ImplicitLayer(cell, Then(Flow(), Anderson())),
    ],
    ids=["implicit", "splitting", "flow", "rest"],
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
    assert torch.autograd.gradgradcheck(loss, inputs, atol=1e-4, fast_mode=True)  # type: ignore[arg-type]


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
    with pytest.raises(ValueError, match="condition"):
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


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("contraction", lambda: ContractiveCell((3,), contraction=0.0)),
        ("contraction", lambda: ContractiveCell((3,), contraction=1.0)),
        ("contraction", lambda: ContractiveCell((3,), contraction=1.5)),
        ("contraction", lambda: ContractiveCell((3,), contraction=math.nan)),
        ("monotonicity", lambda: MonotoneCell((3,), monotonicity=0.0)),
        ("monotonicity", lambda: MonotoneCell((3,), monotonicity=1.1)),
        ("monotonicity", lambda: MonotoneCell((3,), monotonicity=math.nan)),
        ("kernel", lambda: MonotoneCell((3, 4, 4), kernel=2)),
        ("shape", lambda: MonotoneCell((3, 4))),
    ],
)
def test_wrong_settings_are_named(named: str, wrong: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=named):
        wrong()
