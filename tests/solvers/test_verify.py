"""A status holds for the map as its user wrote it: rows that mix, and maps that change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ImplicitLayer
from homotopy_deq.cells import ContractiveCell, ConvCell, ConvField, DenseCell, MonotoneCell
from homotopy_deq.equations import declares_rowwise
from solvers import (
    Anderson,
    Equilibrium,
    Implicit,
    Picard,
    Solution,
    Status,
    Then,
    Unroll,
    solve,
)
from solvers.norms import relative
from solvers.until import Until
from tests.contract.every import every_solver_of_any_map
from tests.problems import DOUBLE

SPREAD = torch.logspace(-0.5, 0.5, 8)  # so different in size that rows end at different steps


class Attending(nn.Module):
    """Attention whose input is not batch-first, as nn.MultiheadAttention has it by default."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(8, 2)
        self.linear = nn.Linear(8, 8)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        mixed = self.attention(z, z, z, need_weights=False)[0]
        return torch.tanh(0.5 * mixed + 0.5 * self.linear(z) + x)


class Normalising(nn.Module):
    """BatchNorm in training: a sample's output depends on the statistics of the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(0.3 * self.norm(self.linear(z)) + x)


class Dropping(nn.Module):
    """Dropout drawn anew at each evaluation, so that there is no fixed point."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 8)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(nn.functional.dropout(0.5 * self.linear(z), 0.2) + x)


def condition(*dims: int) -> Tensor:
    x = torch.randn(8, *dims, 8, generator=torch.Generator().manual_seed(1))
    return x * SPREAD.view(8, *(1,) * (x.dim() - 1))


def residual_on_the_full_batch(cell: nn.Module, x: Tensor, found: Solution[Tensor]) -> Tensor:
    with torch.no_grad():
        image = cell(found.value, x)
        return relative(image - found.value, image)


def mean_coupled(z: Tensor, x: Tensor) -> Tensor:
    return 0.4 * z + 0.4 * z.mean(0, keepdim=True) + x


@pytest.mark.parametrize(("cell", "dims"), [(Attending(), (5,)), (Normalising(), ())])
@pytest.mark.parametrize("graph", [False, True], ids=["plain", "with gradients"])
def test_row_mixing_cell_has_no_converged_sample_that_is_no_root(
    cell: nn.Module, dims: tuple[int, ...], graph: bool
) -> None:
    x = condition(*dims)
    with torch.set_grad_enabled(graph):
        found = ImplicitLayer(cell, Anderson()).solve(x)
    true = residual_on_the_full_batch(cell, x, found)
    assert int(found.steps.max()) > int(found.steps.min())  # or nothing was put to the test
    assert float(true.max()) > 0.1
    assert bool((true[found.converged] <= 3e-4).all())  # twice the tolerance and rounding
    assert bool((found.status == Status.MIXED_ROWS).any())
    assert all(word in found.report() for word in ("BatchNorm", "batch-first", "coupled=True"))


@every_solver_of_any_map
def test_no_solver_calls_a_part_of_a_coupled_system_converged(solver: Any) -> None:
    x = condition().double()
    found = solve(Equilibrium(mean_coupled, (x,)), solver, torch.zeros_like(x))
    image = mean_coupled(found.value, x)
    true = relative(image - found.value, image)
    assert bool((true[found.converged] <= 3e-4).all())


@every_solver_of_any_map
def test_coupled_rows_are_one_system_with_one_status(solver: Any) -> None:
    x = condition().double()
    found = solve(Equilibrium(mean_coupled, (x,), coupled=True), solver, torch.zeros_like(x))
    mean = x.mean(0, keepdim=True)
    exact = (x + 0.4 * mean / (1 - 0.8)) / (1 - 0.4)  # the mean of z is that of x over 1 - 0.8
    assert found.status.tolist() == [Status.CONVERGED] * 8
    assert len(set(found.steps.tolist())) == len(set(found.evals.tolist())) == 1
    error = torch.linalg.vector_norm(found.value - exact) / torch.linalg.vector_norm(exact)
    assert float(error) <= 5 * 1e-4  # ||(I - J)^-1|| = 1 / (1 - 0.8) times the tolerance


@pytest.mark.parametrize("gradient", [Implicit(Anderson(rtol=1e-12)), Unroll()], ids=str)
def test_gradient_of_a_coupled_system_is_that_of_the_closed_form(gradient: Any) -> None:
    x = condition().double().requires_grad_()
    problem = Equilibrium(mean_coupled, (x,), coupled=True)
    found = gradient.apply(problem, Anderson(rtol=1e-12), torch.zeros_like(x))
    v = torch.randn(x.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
    (gradient_in_x,) = torch.autograd.grad(found.value, x, v)
    exact = (v + 0.4 * v.mean(0, keepdim=True) / (1 - 0.8)) / (1 - 0.4)  # the map is symmetric
    torch.testing.assert_close(gradient_in_x, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("cell", "dims"), [(Attending(), (5,)), (Normalising(), ())])
def test_coupled_layer_solves_the_whole_batch(cell: nn.Module, dims: tuple[int, ...]) -> None:
    x = condition(*dims)
    layer = ImplicitLayer(cell, Anderson(), coupled=True)
    found = layer.solve(x)
    image = cell(found.value, x)
    whole = relative((image - found.value).flatten()[None], image.flatten()[None])
    assert bool(found.converged.all()) and float(whole.detach()) <= 2e-4  # rounding beside 1e-4
    assert layer.with_solver(Picard()).coupled


def test_error_of_a_map_that_needs_the_full_batch_says_what_it_was_given() -> None:
    problem = Equilibrium(lambda z, x: torch.tanh(0.8 * z.reshape(8, 8) + x), (condition(),))
    with pytest.raises(RuntimeError, match=r"\d of the 8 rows.*coupled=True"):
        solve(problem, Anderson(), torch.zeros(8, 8))


def test_coupled_trajectory_has_the_rows_of_the_state() -> None:
    x = condition()
    found = solve(
        Equilibrium(mean_coupled, (x,), coupled=True), Picard(), torch.zeros_like(x), record=True
    )
    assert found.trajectory is not None
    steps = int(found.steps[0]) + 1
    assert found.trajectory.z.shape == (steps, *x.shape)
    assert found.trajectory.residual.shape == (steps, 8)
    assert torch.equal(found.trajectory.z[-1], found.value)


def test_map_that_changes_between_calls_is_called_that() -> None:
    found = ImplicitLayer(Dropping(), Anderson(max_steps=30)).solve(0.1 * condition())
    assert found.status.tolist() == [Status.RANDOM_MAP] * 8
    assert "dropout" in found.report()


def test_slow_map_that_is_one_keeps_its_status() -> None:
    found = solve(Equilibrium(lambda z: 0.999 * z + 1), Picard(max_steps=5), torch.zeros(3, 2))
    assert found.status.tolist() == [Status.MAX_STEPS] * 3
    assert "changes from call to call" not in found.report()


@every_solver_of_any_map
def test_check_is_one_evaluation_beside_those_that_are_counted(solver: Any) -> None:
    calls = []
    x = condition()[:4]

    def f(z: Tensor, x: Tensor) -> Tensor:
        calls.append(len(z))
        return torch.tanh(0.5 * z + x)

    found = solve(Equilibrium(f, (x,)), solver, torch.zeros_like(x))
    assert bool(found.converged.all())
    one = solver.solvers[0] if isinstance(solver, Then) else solver  # the rung that solves all
    steps = solve(Equilibrium(f, (x,)), one, torch.zeros_like(x)).steps.tolist()
    assert found.checks == (1 if len(set(steps)) > 1 else 0)
    calls.clear()
    promised = solve(Equilibrium(f, (x,), rowwise=True), solver, torch.zeros_like(x))
    assert promised.checks == 0 and torch.equal(promised.evals, found.evals)


@pytest.mark.parametrize(
    ("cell", "shape"),
    [
        (DenseCell(8, 8), (8,)),
        (ConvCell(4, groups=2), (4, 6, 6)),
        (ConvField(4, groups=2), (4, 6, 6)),
        (ContractiveCell((8,), contraction=0.8), (8,)),
        (MonotoneCell((8,)), (8,)),
        (MonotoneCell((4, 6, 6)), (4, 6, 6)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rows_of_a_cell_that_promises_it_are_independent(
    cell: nn.Module, shape: tuple[int, ...]
) -> None:
    """Changing the other rows changes no row by more than the rounding of another batch."""
    cell = cell.double().eval()
    x = torch.randn(6, *shape, dtype=DOUBLE)
    layer = ImplicitLayer(cell)
    equation = layer.equation(layer.condition(x))
    assert equation.rowwise
    z = torch.randn_like(x)
    other = z.clone()
    other[1:] = 10 * torch.randn_like(z[1:])
    torch.testing.assert_close(equation(z)[0], equation(other)[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(equation(z), equation(z), rtol=0, atol=0)
    assert layer.solve(x).checks == 0


def test_promise_is_not_inherited_by_another_forward_nor_kept_by_batch_norm() -> None:
    class Mixing(DenseCell):
        def forward(self, z: Tensor, x: Tensor, injected: Tensor | None = None) -> Tensor:
            return super().forward(z, x, injected) + z.mean(0)

    class Renamed(DenseCell):
        """Another name, the same forward."""

    assert declares_rowwise(DenseCell(4, 4)) and declares_rowwise(Renamed(4, 4))
    assert not declares_rowwise(Mixing(4, 4))
    converted = ConvCell(4, groups=2)
    converted.norm1 = nn.BatchNorm2d(4)  # type: ignore[assignment]
    assert not declares_rowwise(converted)


def test_decision_that_no_evaluation_can_check_needs_the_promise() -> None:
    solver = Until(Picard(), lambda problem, state: state.residual < 0.1)
    with pytest.raises(ValueError, match="rowwise=True"):
        solve(Equilibrium(lambda z: 0.5 * z + 1), solver, torch.zeros(3, 2))


def test_coupled_and_rowwise_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="say one"):
        Equilibrium(lambda z: z, coupled=True, rowwise=True)
