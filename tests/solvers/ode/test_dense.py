from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from solvers import DOPRI5, DOPRI8, ODE, RK4, InitialValue, RungeKutta, Tableau, Unroll, solve
from solvers.ode import between
from tests.problems import DOUBLE

from .tableaus import every_tableau

RATE = torch.tensor([[-1.0], [-3.0]], dtype=DOUBLE)
TIMES = torch.linspace(0, 2, 17, dtype=DOUBLE)


def decay(t1: float = 2.0) -> InitialValue:
    return InitialValue(lambda t, z, r: r * z, 0.0, t1, condition=(RATE,))


@every_tableau
def test_states_between_the_steps_lie_on_the_solution(tableau: Tableau) -> None:
    start, method = torch.ones(2, 3, dtype=DOUBLE), RungeKutta(tableau, rtol=1e-6, atol=1e-6)
    path = solve(decay(), method, start, record=True).check().trajectory
    assert path is not None and path.time is not None
    found = between(decay(), path, TIMES)
    exact = torch.exp(RATE * TIMES)[..., None].transpose(0, 1).expand(17, 2, 3)
    knots = torch.exp(RATE.T * path.time)[..., None]
    worst = float((path.z - knots).abs().max())
    h = float(path.time.diff(dim=0).max())
    # The cubic errs by h^4 / 384 z'''' beside what its ends miss by, times at most 1 + |r| h / 2.
    assert float((found - exact).abs().max()) <= h**4 / 384 * 81 + 3 * worst
    assert found[0].equal(start) and torch.allclose(found[-1], path.z[-1], rtol=1e-14)


def test_halving_the_step_divides_the_error_of_the_cubic_by_sixteen() -> None:
    def miss(h: float) -> float:
        method = RungeKutta(replace(DOPRI8, error=()), step_size=h)
        path = solve(decay(), method, torch.ones(2, 1, dtype=DOUBLE), record=True).trajectory
        assert path is not None
        half = torch.tensor([h / 2], dtype=DOUBLE)
        return float((between(decay(), path, half)[0] - torch.exp(RATE * h / 2)).abs().max())

    assert abs(math.log2(miss(0.1) / miss(0.05)) - 4) < 0.3  # the next term is r h of it


@pytest.mark.parametrize("tableau", [DOPRI5, RK4])
def test_states_between_are_differentiable_where_the_path_is(tableau: Tableau) -> None:
    start = torch.ones(2, 1, dtype=DOUBLE, requires_grad=True)
    method = RungeKutta(tableau, rtol=1e-8, atol=1e-8, step_size=0.02)
    found = Unroll().apply(decay(-1.0), method, start, record=True).check()
    assert found.trajectory is not None
    z: Tensor = between(decay(-1.0), found.trajectory, torch.tensor([-0.37]).double())
    (got,) = torch.autograd.grad(z.sum(), start)
    torch.testing.assert_close(got, torch.exp(-0.37 * RATE), rtol=1e-5, atol=0)  # backwards in t


def test_time_beyond_the_path_is_refused() -> None:
    path = solve(decay(), RungeKutta(), torch.ones(2, 1, dtype=DOUBLE), record=True).trajectory
    assert path is not None
    with pytest.raises(ValueError, match=r"times must lie on the path, in \[0.0, 2.0\]"):
        between(decay(), path, torch.tensor([2.1]))


def test_path_without_times_is_refused() -> None:
    path = solve(decay(), RungeKutta(), torch.ones(2, 1, dtype=DOUBLE), record=True).trajectory
    assert path is not None
    with pytest.raises(ValueError, match="no times"):
        between(decay(), replace(path, time=None), TIMES)


def test_end_in_single_precision_is_an_end() -> None:
    problem = decay(0.1)  # which single precision rounds up
    path = solve(problem, RungeKutta(), torch.ones(2, 1, dtype=DOUBLE), record=True).trajectory
    assert path is not None
    found = between(problem, path, torch.tensor([0.0, 0.1], dtype=torch.float32))
    torch.testing.assert_close(found, path.z[[0, -1]], rtol=1e-14, atol=0)


def test_field_receives_the_time_that_all_samples_share_as_a_number() -> None:
    def field(t: Tensor, z: Tensor, rate: Tensor) -> Tensor:
        return rate * z if t < 3 else z

    problem = InitialValue(field, 0.0, 2.0, (RATE,))
    path = solve(problem, ODE(), torch.ones(2, 1, dtype=DOUBLE), record=True).trajectory
    assert path is not None
    assert between(problem, path, TIMES).equal(between(decay(), path, TIMES))


def test_slope_in_time_is_that_of_the_field_at_the_ends_too() -> None:
    path = solve(decay(), RungeKutta(), torch.ones(2, 1, dtype=DOUBLE), record=True).trajectory
    assert path is not None
    times = torch.tensor([0.0, 2.0], dtype=DOUBLE, requires_grad=True)
    for k in range(2):
        found = between(decay(), path, times)[:, k, 0]
        (slope,) = torch.autograd.grad(found.sum(), times)
        torch.testing.assert_close(slope, RATE[k] * found, rtol=1e-12, atol=1e-12)


def test_path_of_one_state_holds_it_at_its_time() -> None:
    start = torch.ones(2, 1, dtype=DOUBLE)
    path = solve(decay(), RungeKutta(max_steps=0), start, record=True).trajectory
    assert path is not None
    assert between(decay(), path, TIMES[:1])[0].equal(start)
