"""Flow layers at chosen times, with an end that is learned, and fields that change in time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ODE, Adjoint, Anderson, FlowLayer, ImplicitLayer, RungeKutta, Unroll
from homotopy_deq.cells import DenseCell
from solvers import RK4, Solution, Status
from tests.problems import DOUBLE

FINE = {"rtol": 1e-9, "atol": 1e-9}
RULES = pytest.mark.parametrize(
    ("solver", "rule"),
    [
        (RungeKutta(**FINE), Unroll()),
        (RungeKutta(RK4, step_size=0.02), Unroll()),
        (ODE(**FINE), Adjoint()),
    ],
    ids=["pairs", "equal steps", "adjoint"],
)


class Driven(nn.Module):
    """dz/dt = -k z + cos(w t) x: w and k are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(2.0, dtype=DOUBLE))
        self.k = nn.Parameter(torch.tensor(0.5, dtype=DOUBLE))

    def velocity(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return -self.k * z + torch.cos(self.w * t) * x

    def exact(self, t: Tensor, x: Tensor) -> Tensor:
        """From z(0) = 0, at times (T, 1, 1)."""
        w, k = self.w, self.k
        swing = k * torch.cos(w * t) + w * torch.sin(w * t) - k * torch.exp(-k * t)
        return x * swing / (k * k + w * w)


def cell_and_x(batch: int = 3) -> tuple[nn.Module, Tensor]:
    return DenseCell(2, 3).double(), torch.randn(batch, 2, dtype=DOUBLE)


@RULES
def test_states_at_times_are_those_of_flows_that_end_there(solver: Any, rule: Any) -> None:
    cell, x = cell_and_x()
    times = [0.3, 1.0, 2.7]
    found = FlowLayer(cell, solver, rule, times=times)(x)
    assert found.shape == (3, 3, 3)
    for state, t in zip(found, times, strict=True):
        alone = FlowLayer(cell, solver, rule, t1=t)(x)
        torch.testing.assert_close(state, alone, rtol=1e-6, atol=1e-7)  # rk4's steps differ


@RULES
def test_a_field_that_changes_in_time_has_the_gradients_of_its_closed_form(
    solver: Any, rule: Any
) -> None:
    cell, x = Driven(), torch.randn(4, 2, dtype=DOUBLE, requires_grad=True)
    times = torch.tensor([0.7, 1.1, 3.0], dtype=DOUBLE, requires_grad=True)
    layer = FlowLayer(cell, solver, rule, rest_point=False, t1=3.0)
    own = (cell.w, cell.k, x, times)
    got = layer(x, times=times)
    wanted = cell.exact(times[:, None, None], x)
    torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-8)
    for mine, theirs in zip(
        torch.autograd.grad(got.square().sum(), own),
        torch.autograd.grad(wanted.square().sum(), own),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@RULES
def test_an_end_that_is_learned_has_the_field_there_as_its_gradient(solver: Any, rule: Any) -> None:
    cell, x = cell_and_x()
    end = nn.Parameter(torch.tensor(1.37, dtype=DOUBLE))
    layer = FlowLayer(cell, solver, rule, t1=end)
    assert dict(layer.named_parameters())["t1"] is end and "t1" in layer.state_dict()
    z = layer(x)
    assert z.equal(FlowLayer(cell, solver, rule, t1=1.37)(x))  # the same steps, the same numbers
    v = torch.randn_like(z)
    (got,) = torch.autograd.grad((v * z).sum(), end, retain_graph=True)
    torch.testing.assert_close(got, (v * (cell(z, x) - z)).sum(), rtol=1e-7, atol=1e-9)


def test_gradcheck_of_an_end_that_is_learned_from_a_time_that_is_not_zero() -> None:
    cell, x = cell_and_x(1)
    layer = FlowLayer(cell, RungeKutta(RK4, step_size=0.05), t0=-2.0)

    def answer(end: Tensor) -> Tensor:
        return FlowLayer(cell, layer.solver, t0=-2.0, t1=end)(x)

    end = torch.tensor(-1.033, dtype=DOUBLE, requires_grad=True)  # between two counts of steps
    assert torch.autograd.gradcheck(answer, (end,))
    assert torch.autograd.gradgradcheck(answer, (end,))


def test_a_swap_keeps_the_learned_end_and_the_times_of_a_flow() -> None:
    cell, _ = cell_and_x()
    end = nn.Parameter(torch.tensor(2.0))
    layer = FlowLayer(cell, t0=1.0, t1=end)
    swapped = layer.with_solver(RungeKutta())
    assert isinstance(swapped, FlowLayer) and swapped.t1 is end and swapped.t0 == 1.0
    there_and_back = layer.with_solver(Anderson()).with_solver(RungeKutta())
    assert there_and_back.t1 is end
    timed = FlowLayer(cell, times=[1.0, 4.0]).with_solver(RungeKutta())
    assert timed.times == [1.0, 4.0] and "times=[1.0, 4.0]" in repr(timed)
    other = copy.deepcopy(layer)
    assert other.t1 is not end and other.t1 == end


def test_learned_times_train_as_parameters_do() -> None:
    cell = Driven()
    x = torch.ones(1, 1, dtype=DOUBLE)
    wanted = cell.exact(torch.tensor([[[0.6]]], dtype=DOUBLE), x).detach()
    end = nn.Parameter(torch.tensor(0.3, dtype=DOUBLE))
    layer = FlowLayer(cell, RungeKutta(**FINE), rest_point=False, t1=end)
    for _ in range(8):  # Newton's method on z(t1) = wanted
        miss = (layer(x) - wanted).sum()
        (slope,) = torch.autograd.grad(miss, end)
        with torch.no_grad():
            end -= miss / slope
    torch.testing.assert_close(end.detach(), torch.tensor(0.6, dtype=DOUBLE), rtol=1e-8, atol=0)


def test_times_may_be_a_parameter_of_the_layer() -> None:
    times = nn.Parameter(torch.tensor([0.25, 0.5]))
    layer = FlowLayer(DenseCell(2, 3), ODE("rk4"), t1=1.0, times=times)
    assert layer.get_parameter("times") is times
    layer(torch.randn(4, 2)).sum().backward()
    assert times.grad is not None and bool(times.grad.abs().min() > 0)


def test_the_times_of_a_call_are_those_of_that_call_alone() -> None:
    cell, x = cell_and_x()
    layer = FlowLayer(cell, RungeKutta())
    some = layer(x, times=[0.0, 2.0])
    assert some.shape == (2, 3, 3) and some[0].equal(torch.zeros(3, 3, dtype=DOUBLE))
    assert layer(x).shape == (3, 3) and layer.times is None
    solution = layer.solve(x, times=torch.tensor([2.0]))
    assert solution.trajectory is not None and solution.value.equal(some[1])


def test_a_sample_that_is_not_finite_has_no_states_and_its_mates_have_theirs() -> None:
    cell, x = cell_and_x(4)
    layer = FlowLayer(cell, RungeKutta(), times=[1.0, 5.0])
    alone = layer.solve(x[[0, 2, 3]])
    x[1] = float("nan")
    found: Solution[Tensor] = layer.solve(x)
    assert found.trajectory is not None and alone.trajectory is not None
    assert found.status.tolist() == [1, Status.NONFINITE, 1, 1]
    assert found.trajectory.z[:, [0, 2, 3]].equal(alone.trajectory.z)


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (r"rest_point=False", lambda: FlowLayer(Driven())),
        (r"rest_point=False", lambda: ImplicitLayer(Driven())),
        (r"t1 must be above t0 = 2", lambda: FlowLayer(DenseCell(2, 3), t0=2.0, t1=1.0)),
        (r"\[t0, t1\] = \[0, 1\]; got 3", lambda: FlowLayer(DenseCell(2, 3), t1=1.0, times=[3.0])),
        (r"each once; got 1 twice", lambda: FlowLayer(DenseCell(2, 3), times=[1.0, 1.0])),
        (
            r"t1 that is learned ends the flow",
            lambda: FlowLayer(DenseCell(2, 3), t1=nn.Parameter(torch.ones(())), times=[0.5]),
        ),
        (
            r"give one",
            lambda: FlowLayer(DenseCell(2, 3), times=[0.5]).solve(torch.ones(1, 2), record=True),
        ),
        (r"velocit, which nothing calls", lambda: FlowLayer(Slipped())),
    ],
)
def test_what_cannot_be_is_said_in_one_line(told: str, wrong: Callable[[], Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=told) as raised:
        wrong()
    assert "\n" not in str(raised.value)


class Slipped(nn.Module):
    def velocit(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        return z


def test_an_end_that_was_learned_away_is_told_at_the_next_solve() -> None:
    cell, x = cell_and_x()
    end = nn.Parameter(torch.tensor(1.0))
    layer = FlowLayer(cell, RungeKutta(), t1=end)
    with torch.no_grad():
        end -= 2
    with pytest.raises(ValueError, match=r"t1 must be above 0; got -1.*: clamp it after each step"):
        layer(x)


@pytest.mark.parametrize("t1", [0.0, -1.0])
def test_a_layer_goes_forward_in_time_alone(t1: float) -> None:
    cell, _ = cell_and_x()
    said = rf"t1 must be above 0; got {t1}\. To go back in time, solve an InitialValue"
    with pytest.raises(ValueError, match=said):
        FlowLayer(cell, t1=t1)
    with pytest.raises(ValueError, match=said):
        FlowLayer(cell).with_solver(RungeKutta(), t1=t1)
