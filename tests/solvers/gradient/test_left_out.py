"""A batch with a sample that is not finite, and its loss masked, has the gradient of the others."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ConvergenceWarning, FlowLayer, ImplicitLayer
from homotopy_deq.cells import ConvCell, DenseCell
from solvers import (
    MIDPOINT,
    ODE,
    Adjoint,
    Anderson,
    Equilibrium,
    Flow,
    Implicit,
    InitialValue,
    NewtonKrylov,
    Phantom,
    Picard,
    Status,
    Then,
    Unroll,
)
from solvers.gradient.rows import BackwardWarning
from tests.contract.every import name
from tests.problems import DOUBLE, contractions, exact_gradient, normal

TIGHT = Anderson(rtol=1e-13, max_steps=500)
NAN, INF = float("nan"), float("inf")
KEPT = [0, 1, 3, 4]


class Injected(nn.Module):
    """f(z, x) = tanh(W z + U x + c): an infinite entry of x has an image, and no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Linear(4, 4), nn.Linear(4, 4)
        nn.init.orthogonal_(self.w.weight, 0.6)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.w(z) + self.u(x))


def spoiled(bad: float, entries: int) -> Tensor:
    x = normal(0, 5, 4)
    x[2, :entries] = bad
    return x


every_bad = pytest.mark.parametrize(
    ("bad", "entries"), [(NAN, 1), (NAN, 4), (INF, 1), (-INF, 1), (INF, 4)]
)


@every_bad
@pytest.mark.parametrize("solver", [TIGHT, NewtonKrylov(rtol=1e-13)], ids=name)
@pytest.mark.parametrize("rule", [Implicit(TIGHT), Phantom(5, 0.5)], ids=name)
def test_masked_sample_that_is_not_finite_is_left_out(
    rule: Any, solver: Any, bad: float, entries: int
) -> None:
    torch.manual_seed(0)
    cell = Injected().double()

    def gradients(x: Tensor, rows: list[int]) -> list[Tensor]:
        problem = Equilibrium(cell, (x,))
        value = rule.apply(problem, solver, torch.zeros_like(x)).value[rows]
        return list(torch.autograd.grad(value.sin().sum(), list(cell.parameters())))

    x = spoiled(bad, entries)
    wanted = gradients(x[KEPT], [0, 1, 2, 3])
    for got, want in zip(gradients(x, KEPT), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


def test_gradient_beside_a_bad_sample_is_that_of_a_dense_solve() -> None:
    w = contractions(1, 4, 0.6, 0)[0].requires_grad_()
    x = spoiled(NAN, 1).requires_grad_()
    problem = Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), (x,))
    value = Implicit(TIGHT).apply(problem, TIGHT, torch.zeros(5, 4, dtype=DOUBLE)).value[KEPT]
    v = normal(3, 4, 4)
    of_w, of_x = torch.autograd.grad(value, (w, x), v)
    wanted = exact_gradient(lambda z, w, x: torch.tanh(z @ w.mT + x), value, (w, x[KEPT]), v)
    torch.testing.assert_close(of_w, wanted[0], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(of_x[KEPT], wanted[1], rtol=1e-10, atol=1e-11)
    assert (of_x[2] == 0).all()


def test_second_derivative_leaves_the_sample_out_too() -> None:
    w = contractions(1, 4, 0.6, 0)[0].requires_grad_()

    def second(x: Tensor, rows: list[int]) -> Tensor:
        problem = Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), (x,))
        value = Implicit(TIGHT).apply(problem, TIGHT, torch.zeros_like(x)).value[rows]
        (first,) = torch.autograd.grad(value.square().sum(), w, create_graph=True)
        return torch.autograd.grad(first.square().sum(), w)[0]

    x = spoiled(NAN, 4)
    wanted = second(x[KEPT], [0, 1, 2, 3])
    torch.testing.assert_close(second(x, KEPT), wanted, rtol=1e-11, atol=1e-12)


def test_infinite_entries_of_a_mask_leave_no_sample_out() -> None:
    """Attention masks hold -inf, in some samples alone: padding."""
    mask = torch.zeros(3, 1, 4, dtype=DOUBLE)
    mask[1:, :, 2:] = -INF
    w = contractions(1, 4, 0.6, 0)[0].requires_grad_()

    def f(z: Tensor, w: Tensor, mask: Tensor) -> Tensor:
        weight = torch.softmax(z[:, None] + mask, dim=2)[:, 0]
        return torch.tanh(z @ w.mT + weight)

    problem = Equilibrium(lambda z, mask: f(z, w, mask), (mask,))
    found = Implicit(TIGHT).apply(problem, TIGHT, torch.zeros(3, 4, dtype=DOUBLE))
    v = normal(3, 3, 4)
    (wanted,) = exact_gradient(lambda z, w: f(z, w, mask), found.value, (w,), v)
    (got,) = torch.autograd.grad(found.value, w, v)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-11)


def test_map_that_closes_over_a_bad_sample_is_told_so() -> None:
    w = contractions(1, 4, 0.6, 0)[0].requires_grad_()
    x = spoiled(NAN, 1)
    problem = Equilibrium(lambda z: torch.tanh(z @ w.mT + x))
    with pytest.warns(BackwardWarning, match="1 samples are not finite.*Pass the inputs as cond"):
        Implicit().apply(problem, Anderson(), torch.zeros_like(x))


LAYERS: list[Any] = [
    lambda cell: ImplicitLayer(cell, TIGHT, Implicit(TIGHT)),
    lambda cell: ImplicitLayer(cell, TIGHT, Phantom(4)),
    lambda cell: ImplicitLayer(cell, TIGHT, Unroll()),
    lambda cell: ImplicitLayer(cell, Then(Picard(max_steps=2), TIGHT), Implicit(TIGHT)),
    lambda cell: FlowLayer(cell, ODE("midpoint")),
    lambda cell: FlowLayer(cell, ODE("midpoint"), Adjoint()),
    lambda cell: ImplicitLayer(cell, Then(Flow(MIDPOINT, rtol=1e-4), TIGHT)),
]


@pytest.mark.parametrize(("bad", "entries"), [(NAN, 4), (INF, 1)])
@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("kind", ["own", "dense", "conv"])
def test_layer_leaves_a_sample_that_is_not_finite_out(
    kind: str, make: Any, bad: float, entries: int
) -> None:
    torch.manual_seed(0)
    cell = {
        "own": Injected,
        "dense": lambda: DenseCell(4, 4),
        "conv": lambda: ConvCell(4, groups=2),
    }
    module = cell[kind]().double()  # type: ignore[operator]
    x = spoiled(bad, entries)
    if kind == "conv":
        x = x[:, :, None, None].expand(5, 4, 2, 2)
    layer = make(module)

    def gradients(x: Tensor, rows: list[int]) -> list[Tensor]:
        found = layer.solve(x)
        assert found.status.tolist().count(Status.NONFINITE) == len(x) - len(rows)
        assert torch.isfinite(found.value).all()
        loss = found.value[rows].sin().sum()
        return list(torch.autograd.grad(loss, list(module.parameters())))

    wanted = gradients(x[KEPT], [0, 1, 2, 3])
    for got, want in zip(gradients(x, KEPT), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)


def test_layer_names_the_sample_and_keeps_its_start_and_the_path() -> None:
    layer = ImplicitLayer(DenseCell(4, 6))
    x, z0 = spoiled(NAN, 1).float(), torch.ones(5, 6)
    with pytest.warns(ConvergenceWarning, match="1 of 5 .*their input or the weights are"):
        layer(x)
    found = layer.solve(x, z0, record=True)
    assert found.status.tolist() == [1, 1, Status.NONFINITE, 1, 1]
    assert (found.value[2] == 1).all() and float(found.residual[2]) == INF
    assert found.evals[2] == 0
    assert found.trajectory is not None and found.trajectory.z.shape[1:] == (5, 6)
    again = layer.solve(x, found)  # a warm start
    assert again.value.equal(found.value) and (again.evals[KEPT] == 1).all()


# --- nothing left to solve ---------------------------------------------------------------------

EMPTY: list[tuple[Any, Any]] = [
    (Implicit(), Anderson()),
    (Phantom(), Picard()),
    (Unroll(), Anderson()),
    (Unroll(), NewtonKrylov()),
    (Unroll(), ODE("midpoint")),
    (Adjoint(), ODE()),
]


def leaves_of(rule: Any, solver: Any, x: Tensor, z0: Tensor) -> tuple[Any, list[Tensor | None]]:
    """Return the solution, and the gradients in an encoder of x and in the map's weight."""
    e, w = normal(0, 4, 4).requires_grad_(), contractions(1, 4, 0.6, 0)[0].requires_grad_()
    condition = (x @ e,)
    problem: Any
    if issubclass(solver.answers, InitialValue):
        explosive = lambda t, z, x: (z @ w.mT) ** 3 + z**3 + x + t  # noqa: E731
        problem = InitialValue(explosive, condition=condition)
    else:
        problem = Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), condition)
    found = rule.apply(problem, solver, z0)
    return found, list(torch.autograd.grad(found.value.sum(), (e, w), allow_unused=True))


@pytest.mark.parametrize(("rule", "solver"), EMPTY, ids=name)
def test_empty_batch_has_gradients_of_zero(rule: Any, solver: Any) -> None:
    empty = torch.zeros(0, 4, dtype=DOUBLE)
    found, gradients = leaves_of(rule, solver, empty, empty)
    assert found.value.shape == (0, 4)
    for gradient in gradients:
        assert gradient is not None and (gradient == 0).all()


@pytest.mark.parametrize("rule", [Implicit(), Phantom(), Unroll(), Adjoint()], ids=name)
def test_batch_in_which_every_sample_failed_has_gradients_of_zero(rule: Any) -> None:
    flows = isinstance(rule, Unroll | Adjoint)
    x = normal(1, 3, 4) if flows else torch.full((3, 4), NAN, dtype=DOUBLE)
    solver: Any = ODE(max_steps=3) if flows else Anderson()
    found, gradients = leaves_of(rule, solver, x, torch.full_like(x, 9.0))
    assert not found.converged.any()
    for gradient in gradients:
        assert gradient is not None and (torch.nan_to_num(gradient) == 0).all()
    of_weight = gradients[1]
    assert of_weight is not None and (of_weight == 0).all()


@pytest.mark.parametrize("make", LAYERS)
def test_layer_without_a_sample_to_solve_has_gradients_of_zero(make: Any) -> None:
    cell = DenseCell(4, 4).double()
    for x in (torch.zeros(0, 4, dtype=DOUBLE), torch.full((2, 4), NAN, dtype=DOUBLE)):
        encoder = nn.Linear(4, 4).double()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            make(cell)(x + 0 * encoder.bias).sum().backward()
        for parameter in (*cell.parameters(), encoder.bias):
            assert parameter.grad is not None and (parameter.grad == 0).all()
        cell.zero_grad()
