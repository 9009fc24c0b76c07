"""States at chosen times, against dz/dt = a cos(t) z, z(t) = z0 exp(a (sin t - sin t0))."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from solvers import (
    DOPRI5,
    ODE,
    RK4,
    Adjoint,
    InitialValue,
    Reversible,
    RungeKutta,
    Status,
    Unroll,
    solve,
    solve_at,
)
from solvers.ode import between
from tests.problems import DOUBLE

T0, T1 = 1.5, 6.0
TIMES = (1.75, 2.0, 4.5, 6.0)  # irregular, and from a time that is not 0
FINE = {"rtol": 1e-10, "atol": 1e-12}

WAYS: dict[str, tuple[Any, Any, dict[str, bool]]] = {
    "pairs, each sample's steps": (RungeKutta(DOPRI5, **FINE), Unroll(), {}),
    "equal steps": (RungeKutta(RK4, step_size=0.01), Unroll(), {}),
    "torchdiffeq": (ODE("dopri5", **FINE), Unroll(), {}),
    "torchdiffeq, equal steps": (ODE("rk4", step_size=0.01), Unroll(), {}),
    "adjoint": (ODE("dopri5", **FINE), Adjoint(), {}),
    "reversible": (RungeKutta(RK4, step_size=0.01), Reversible(coupling=1e-3), {}),
    "interpolated": (RungeKutta(DOPRI5, rtol=1e-13, atol=1e-13), Unroll(), {"interpolate": True}),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def swinging(a: Tensor, scale: Tensor) -> InitialValue:
    """a is closed over; the scale of each sample, (B, 1), is its condition."""
    return InitialValue(lambda t, z, s: a * s * torch.cos(t) * z, T0, T1, condition=(scale,))


def leaves() -> tuple[Tensor, ...]:
    z0 = torch.tensor([[0.5, -1.0], [2.0, 0.25], [1.0, 1.0]], dtype=DOUBLE)
    scale = torch.tensor([[1.0], [0.5], [-1.5]], dtype=DOUBLE)
    a, times = torch.tensor(0.8, dtype=DOUBLE), torch.tensor(TIMES, dtype=DOUBLE)
    return tuple(each.requires_grad_() for each in (z0, scale, a, times))


def exact(z0: Tensor, scale: Tensor, a: Tensor, times: Tensor) -> Tensor:
    grown = torch.sin(times)[:, None, None] - math.sin(T0)
    return z0 * torch.exp(a * scale * grown)


@every_way
def test_states_and_all_gradients_are_those_of_the_closed_form(way: Any) -> None:
    solver, rule, settings = way
    z0, scale, a, times = own = leaves()
    found = solve_at(swinging(a, scale), solver, z0, times, rule, **settings).check()
    assert found.trajectory is not None
    states, wanted = found.trajectory.z, exact(*own)
    # Step sizes of 0.01 leave 1e-9 of rk4; of a cubic between small steps, 1e-8, and 1e-5 of slopes
    torch.testing.assert_close(states, wanted, rtol=1e-7, atol=0)
    assert found.value.equal(states[-1])
    weights = torch.linspace(-1, 1, wanted.numel(), dtype=DOUBLE).view_as(wanted)
    got = torch.autograd.grad((weights * states).sum(), own)
    for mine, theirs in zip(got, torch.autograd.grad((weights * wanted).sum(), own), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=1e-8)


@every_way
def test_the_gradient_in_the_end_is_the_field_there(way: Any) -> None:
    solver, rule, settings = way
    z0, scale, a, _ = leaves()
    end = torch.tensor([T1], dtype=DOUBLE, requires_grad=True)
    problem = swinging(a, scale)
    z = solve_at(problem, solver, z0, end, rule, **settings).value
    v = torch.linspace(1, 2, z.numel(), dtype=DOUBLE).view_as(z)
    (got,) = torch.autograd.grad((v * z).sum(), end)
    wanted = (v * problem(end[0], z)).sum()
    torch.testing.assert_close(got[0], wanted, rtol=1e-8, atol=0)


def test_between_steps_whose_sizes_are_differentiated_the_gradient_is_exact_too() -> None:
    # z' = cos(t) z^2, z = 1 / (1 / z0 - sin t + sin t0): dz/dz0 = (z / z0)^2
    z0 = torch.tensor([[1.3], [0.4]], dtype=DOUBLE, requires_grad=True)
    times = torch.linspace(0.5, 3, 9, dtype=DOUBLE)
    problem = InitialValue(lambda t, z: torch.cos(t) * z * z, 0.5, 3.0)
    settings: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}
    found = solve_at(problem, ODE(**settings), z0, times, interpolate=True).trajectory
    assert found is not None
    (got,) = torch.autograd.grad(found.z.sum(), z0)
    start = z0.detach()
    z = 1 / (1 / start - (torch.sin(times) - math.sin(0.5))[:, None, None])
    # The states err by 1e-5 of cubics; with steps that do not move with z0 it was 2e-4.
    torch.testing.assert_close(got, (z / start).square().sum(0), rtol=1e-5, atol=0)


def states_of(way: Any) -> Callable[..., Tensor]:
    solver, rule, settings = way

    def states(z0: Tensor, scale: Tensor, a: Tensor, times: Tensor) -> Tensor:
        found = solve_at(swinging(a, scale), solver, z0, times, rule, **settings)
        assert found.trajectory is not None
        return found.trajectory.z

    return states


@pytest.mark.parametrize("name", ["equal steps", "torchdiffeq", "adjoint"])
def test_gradcheck_in_times_start_condition_and_parameters(name: str) -> None:
    z0, scale, a, _ = leaves()
    times = torch.tensor([1.735, 2.415], dtype=DOUBLE, requires_grad=True)  # no multiples of a step
    assert torch.autograd.gradcheck(states_of(WAYS[name]), (z0, scale, a, times), rtol=1e-4)


def test_second_derivatives_in_times_are_those_of_the_closed_form() -> None:
    z0, scale, a, _ = leaves()
    times = torch.tensor([1.735, 2.415], dtype=DOUBLE, requires_grad=True)
    way = (RungeKutta(RK4, step_size=0.02), Unroll(), {})
    assert torch.autograd.gradgradcheck(states_of(way), (z0[:1], scale[:1], a, times), rtol=1e-3)


def test_the_start_is_the_state_at_t0_and_costs_nothing() -> None:
    z0, scale, a, _ = (each.detach() for each in leaves())
    problem, solver = swinging(a, scale), RungeKutta(**FINE)
    found = solve_at(problem, solver, z0, [T0, T1])
    assert found.trajectory is not None
    assert found.trajectory.z[0].equal(z0)
    assert found.value.equal(solve(problem, solver, z0).value)
    alone = solve_at(problem, solver, z0, [T0])
    assert alone.value.equal(z0) and bool(alone.converged.all()) and not alone.evals.any()


def test_steps_and_evaluations_are_those_of_all_ways_together() -> None:
    z0, scale, a, _ = (each.detach() for each in leaves())
    problem, solver = swinging(a, scale), RungeKutta(RK4, step_size=(T1 - T0) / 20)
    whole = solve(problem, solver, z0)
    found = solve_at(problem, solver, z0, [T0 + (T1 - T0) / 4, (T0 + T1) / 2, T1])
    assert whole.steps.tolist() == found.steps.tolist() == [20] * len(z0)
    assert whole.evals.tolist() == found.evals.tolist()


def test_backwards_in_time_the_states_are_in_the_order_of_the_flow() -> None:
    z0, scale, a, _ = (each.detach() for each in leaves())
    back = InitialValue(swinging(a, scale).field, T1, T0, condition=(scale,))
    there = exact(z0, scale, a, torch.tensor([4.5, 2.0, T0], dtype=DOUBLE))
    start = exact(z0, scale, a, torch.tensor([T1], dtype=DOUBLE))[0]
    found = solve_at(back, RungeKutta(**FINE), start, [4.5, 2.0, T0]).trajectory
    assert found is not None
    torch.testing.assert_close(found.z, there, rtol=1e-8, atol=0)


def test_times_of_a_calendar_keep_their_differences_in_single_precision() -> None:
    day = 59000.25  # single precision resolves 0.004 of it
    problem = InitialValue(lambda t, z: -z, day, day + 1)
    states = solve_at(problem, RungeKutta(rtol=1e-6, atol=1e-6), torch.ones(1, 1), [day + 0.001])
    assert float(states.value) == pytest.approx(math.exp(-0.001), rel=1e-6)


@pytest.mark.parametrize("interpolate", [False, True])
def test_a_sample_that_fails_holds_its_state_and_its_mates_go_on(interpolate: bool) -> None:
    # dz/dt = z^2 from 1 and 0.1: z = 1 / (1 / z0 - t), at infinity at t = 1 and 10.
    problem = InitialValue(lambda t, z, s: s * z * z, 0.0, 2.0, condition=(torch.ones(2, 1),))
    start, times = torch.tensor([[1.0], [0.1]]).double(), [0.5, 1.5, 2.0]
    solver = RungeKutta(rtol=1e-8, atol=1e-8, max_steps=200)
    with torch.no_grad():
        found = solve_at(problem, solver, start, times, interpolate=interpolate)
    path = found.trajectory
    assert path is not None
    assert found.status[0] != Status.CONVERGED and found.status[1] == Status.CONVERGED
    assert path.z[1, 0].equal(path.z[2, 0]) and path.z[2, 0].equal(found.value[0])
    wanted = 1 / (10 - torch.tensor(times).double())
    # The cubics between a few long steps err by h^4 / 384 of the fourth derivative, 24 z^5.
    torch.testing.assert_close(path.z[:, 1, 0], wanted, rtol=1e-6, atol=3e-6 * interpolate)
    torch.testing.assert_close(path.z[0, 0, 0], torch.tensor(2.0).double(), rtol=1e-5, atol=0)


def test_a_state_may_be_a_tuple_and_its_rows_one_system() -> None:
    def circle(t: Tensor, z: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return -z[1], z[0]

    start = torch.ones(3, 1, dtype=DOUBLE), torch.zeros(3, 1, dtype=DOUBLE)
    times = torch.tensor([0.5, 2.0], dtype=DOUBLE, requires_grad=True)
    for coupled in (False, True):
        problem = InitialValue(circle, 0.0, 2.0, coupled=coupled)
        path = solve_at(problem, RungeKutta(**FINE), start, times).trajectory
        assert path is not None
        cosine, sine = path.z
        assert cosine.shape == (2, 3, 1)
        torch.testing.assert_close(cosine, times.cos()[:, None, None].expand(2, 3, 1))
        (got,) = torch.autograd.grad(sine.sum(), times)
        torch.testing.assert_close(got, 3 * times.cos().detach(), rtol=1e-7, atol=0)


def test_states_between_steps_cost_two_evaluations_each() -> None:
    z0, scale, a, _ = (each.detach() for each in leaves())
    problem, solver = swinging(a, scale), RungeKutta(rtol=1e-6, atol=1e-6)
    times = torch.linspace(T0, T1, 40, dtype=DOUBLE)
    whole = solve(problem, solver, z0, record=True)
    found = solve_at(problem, solver, z0, times, interpolate=True)
    stopping = solve_at(problem, solver, z0, times)
    assert whole.trajectory is not None and found.trajectory is not None
    assert found.trajectory.z.equal(between(problem, whole.trajectory, times))
    assert found.evals.equal(whole.evals + 2 * 40)
    assert int(stopping.evals.min()) > 2 * int(found.evals.max())


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ([2.0, 1.75], r"in the order of the flow, each once; got 1\.75 after 2\."),
        ([2.0, 2.0], r"in the order of the flow, each once; got 2 twice"),
        ([1.0, 2.0], r"in \[t0, t1\] = \[1\.5, 6\]; got 1\."),
        ([2.0, 7.0], r"in \[t0, t1\] = \[1\.5, 6\]; got 7\."),
        ([2.0, math.nan], "times must be a finite number; got nan"),
        ([], "one at least"),
        (2.0, "numbers in a sequence, or a tensor; got 2.0"),
        (torch.ones(2, 2), r"one after the other, \(T,\); got shape \(2, 2\)"),
    ],
)
def test_times_that_cannot_be_are_named_in_one_line(times: Any, told: str) -> None:
    z0, scale, a, _ = leaves()
    with pytest.raises((TypeError, ValueError), match=told) as raised:
        solve_at(swinging(a, scale), RungeKutta(), z0, times)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("rule", [Adjoint(), Reversible()])
def test_a_rule_without_the_path_has_no_states_to_interpolate_between(rule: Any) -> None:
    z0, scale, a, _ = leaves()
    solver: Any = ODE() if isinstance(rule, Adjoint) else RungeKutta(RK4)
    with pytest.raises(TypeError, match="Unroll"):
        solve_at(swinging(a, scale), solver, z0, TIMES, rule, interpolate=True)


@pytest.mark.parametrize("interpolate", [False, True])
def test_no_samples_have_no_states(interpolate: bool) -> None:
    problem, start = InitialValue(lambda t, z: -z), torch.zeros(0, 2)
    found = solve_at(problem, RungeKutta(), start, [0.5, 1.0], interpolate=interpolate)
    assert found.trajectory is not None and found.trajectory.z.shape == (2, 0, 2)


@pytest.mark.parametrize("interpolate", [False, True])
def test_t0_among_the_times_has_the_gradient_of_any_other(interpolate: bool) -> None:
    z0, scale, a, _ = leaves()
    problem = swinging(a, scale)
    times = torch.tensor([T0, T1], dtype=DOUBLE, requires_grad=True)
    path = solve_at(problem, RungeKutta(**FINE), z0, times, interpolate=interpolate).trajectory
    assert path is not None and path.z[0].equal(z0)
    for k in range(2):
        (got,) = torch.autograd.grad(path.z[k].sum(), times, retain_graph=True)
        wanted = torch.zeros(2, dtype=DOUBLE)
        wanted[k] = problem(times[k], path.z[k]).sum().detach()
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-7)
