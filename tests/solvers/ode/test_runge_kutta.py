from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from solvers import (
    BOSH3,
    DOPRI5,
    DOPRI8,
    EULER,
    MIDPOINT,
    ODE,
    RK4,
    InitialValue,
    RungeKutta,
    Tableau,
    solve,
)
from tests.problems import DOUBLE, FLOWS

from .tableaus import every_pair, every_tableau


def accurate(tableau: Tableau) -> RungeKutta:
    """Return settings with which the method should be right to 1e-4 and better."""
    return RungeKutta(tableau, rtol=1e-7, atol=1e-9, step_size=5e-3 if tableau is EULER else 2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=["float32", "float64"])
@pytest.mark.parametrize("backwards", [False, True], ids=["forwards", "backwards"])
@pytest.mark.parametrize("flow", FLOWS)
@every_tableau
def test_integrates_the_conformance_problems(
    tableau: Tableau, flow: str, backwards: bool, dtype: torch.dtype
) -> None:
    known = FLOWS[flow]()
    t0, t1 = (2.0, 1.0) if backwards else (1.0, 2.0)
    problem, start = known.problem(t0, t1)
    rounded = replace(problem, field=lambda t, z: problem.field(t.double(), z.double()).to(dtype))
    method = accurate(tableau)
    if dtype == torch.float32:  # the pairs are asked for no more than rounding allows
        method = replace(method, rtol=1e-5, atol=1e-6)
    found = solve(rounded, method, start.to(dtype)).check()
    exact = known.exact(t1)
    error = (found.value - exact).abs().max() / exact.abs().max()
    # A few times the step to the order; in float32 a hundred steps round by 6e-8 each.
    assert error < {"euler": 1.5e-2, "midpoint": 4e-3, "heun": 4e-3}.get(tableau.name, 1e-4)
    assert found.residual.eq(0).all()
    assert found.value.dtype == dtype


@every_tableau
@given(t0=st.floats(-1.0, 1.0), span=st.floats(0.05, 2.0))
def test_field_is_never_asked_past_the_end(tableau: Tableau, t0: float, span: float) -> None:
    asked: list[float] = []

    def field(t: Tensor, z: Tensor) -> Tensor:
        asked.append(float(t.max()))
        return -z

    t1 = t0 + span
    start = torch.ones(1, 1, dtype=DOUBLE)
    solve(InitialValue(field, t0, t1), RungeKutta(tableau), start).check()
    assert max(asked) <= t1
    if 1 in tableau.c or tableau.error:
        assert asked[-1] == t1  # to the last bit


@every_tableau
def test_a_way_that_is_a_millionth_of_a_step_is_one_step(tableau: Tableau) -> None:
    start = torch.ones(1, 1, dtype=DOUBLE)
    for t1 in (1e-9, -1e-9):
        found = solve(InitialValue(lambda t, z: -z, 0.0, t1), RungeKutta(tableau), start).check()
        assert found.value.item() == pytest.approx(math.exp(-t1), rel=1e-15)  # rounding
        assert found.steps.item() == 1


@every_pair
def test_a_start_at_0_needs_no_absolute_tolerance(tableau: Tableau) -> None:
    problem = InitialValue(lambda t, z: 1 - z)
    found = solve(problem, RungeKutta(tableau, rtol=1e-7, atol=0.0), torch.zeros(1, 1).to(DOUBLE))
    # Local errors of 1e-7 of z; few steps, and what is off decays.
    assert found.check().value.item() == pytest.approx(1 - math.exp(-1), rel=1e-6)


@every_pair
@pytest.mark.parametrize("digits", [4, 7, 10])
def test_tightening_the_tolerance_tightens_the_answer(tableau: Tableau, digits: int) -> None:
    """A rotation, whose errors add up: some ten to a few hundred steps of one tolerance each."""
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=DOUBLE)
    problem = InitialValue(lambda t, z: z @ turn.T, 0.0, 6.0)
    method = RungeKutta(tableau, rtol=10.0**-digits, atol=10.0**-digits)
    found = solve(problem, method, torch.tensor([[1.0, 0.0]], dtype=DOUBLE)).check()
    exact = torch.tensor([[math.cos(6), -math.sin(6)]], dtype=DOUBLE)
    assert (found.value - exact).abs().max() < 30 * 10.0**-digits


@pytest.mark.parametrize("tableau", [BOSH3, DOPRI5, DOPRI8], ids=lambda t: t.name)
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
@pytest.mark.parametrize("flow", FLOWS)
def test_takes_no_more_evaluations_than_torchdiffeq(
    tableau: Tableau, tolerance: float, flow: str
) -> None:
    problem, start = FLOWS[flow]().problem(1.0, 2.0)
    ours = solve(problem, RungeKutta(tableau, rtol=tolerance, atol=tolerance), start).check()
    theirs = solve(problem, ODE(tableau.name, rtol=tolerance, atol=tolerance), start).check()
    assert (ours.evals <= theirs.evals).all()


@every_tableau
@pytest.mark.parametrize(
    ("t0", "t1"), [(59000.3, 59000.31), (59000.31, 59000.3),
        (1.7e9, 1.7e9 + 0.01), (2460000.5, 2460000.51)]
)  # fmt: skip
def test_absolute_times_are_as_good_as_relative_ones(
    tableau: Tableau, t0: float, t1: float
) -> None:
    """Modified Julian dates, clock seconds and Julian dates, whose float32 steps are 1 / 256 up."""
    problem = InitialValue(lambda t, z: -z, t0, t1)
    found = solve(problem, RungeKutta(tableau, step_size=1e-3), torch.ones(2, 3)).check()
    # One rounding of float32 a step; Euler's error is h (t1 - t0) / 2.
    tolerance = 6e-6 if tableau is EULER else 1e-6
    assert (found.value - math.exp(-(t1 - t0))).abs().max() < tolerance


@every_tableau
def test_field_is_given_every_time_between_and_none_beyond(tableau: Tableau) -> None:
    """z' = sqrt(t1 - t), which is not a number one rounding beyond t1."""
    seen: list[Tensor] = []

    def field(t: Tensor, z: Tensor) -> Tensor:
        seen.append(t)
        return torch.sqrt(0.7 - t) + 0 * z

    for t0 in (0.1, 0.3, 1 / 3):
        found = solve(
            InitialValue(field, t0, 0.7),
            RungeKutta(tableau, step_size=0.07),
            torch.zeros(1, 1).double(),
        )
        assert found.check().value.item() == pytest.approx(2 / 3 * (0.7 - t0) ** 1.5, rel=0.15)
    assert all(t.dim() == 0 and t.dtype == DOUBLE for t in seen)
    assert any(float(t) == 0.7 for t in seen) or tableau in (EULER, MIDPOINT)


def test_time_has_the_dtype_of_the_state_and_its_own_row_for_each_sample() -> None:
    shapes: list[tuple[int, ...]] = []

    def field(t: Tensor, z: Tensor, rate: Tensor) -> Tensor:
        assert t.dtype == z.dtype == torch.float32
        shapes.append(tuple(t.shape))
        return rate[..., None] * z * torch.cos(t)

    rate = torch.tensor([[-1.0], [-30.0]])
    problem = InitialValue(field, condition=(rate,))
    found = solve(problem, RungeKutta(), torch.ones(2, 1, 4)).check()
    assert shapes[0] == () and (2, 1, 1) in shapes and set(shapes) == {(), (2, 1, 1)}
    exact = torch.exp(rate * math.sin(1.0))[..., None]
    torch.testing.assert_close(found.value, exact.expand(2, 1, 4), rtol=0, atol=5e-3)
    shapes.clear()
    solve(problem, RungeKutta(RK4), torch.ones(2, 1, 4)).check()
    assert set(shapes) == {()}


def test_time_of_a_tuple_state_fits_its_first_part() -> None:
    """(q, p)' = (w p, -w q) cos t: the angle is w sin t."""
    rate = torch.tensor([1.0, 40.0], dtype=DOUBLE)

    def field(t: Tensor, z: tuple[Tensor, Tensor], w: Tensor) -> tuple[Tensor, Tensor]:
        w = w.view(-1, 1, 1) * torch.cos(t)
        return w * z[1], -w * z[0]

    start = (torch.ones(2, 2, 2, dtype=DOUBLE), torch.zeros(2, 2, 2, dtype=DOUBLE))
    problem = InitialValue(field, condition=(rate,))  # type: ignore[arg-type]
    found = solve(problem, RungeKutta(rtol=1e-8, atol=1e-8), start).check()
    angle = rate * math.sin(1.0)
    torch.testing.assert_close(found.value[0][:, 0, 0], torch.cos(angle), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.value[1][:, 1, 1], -torch.sin(angle), rtol=0, atol=1e-6)


def test_recorded_times_of_a_clock_are_not_rounded_to_the_state() -> None:
    problem = InitialValue(lambda t, z: -z, 59000.3, 59000.4)
    found = solve(problem, RungeKutta(RK4, step_size=0.025), torch.ones(1, 1), record=True).check()
    assert found.trajectory is not None and found.trajectory.time is not None
    expected = [59000.3, 59000.325, 59000.35, 59000.375, 59000.4]
    assert found.trajectory.time[:, 0].tolist() == pytest.approx(expected, abs=1e-10)


def test_a_name_in_the_place_of_a_tableau_is_refused_with_advice() -> None:
    with pytest.raises(TypeError, match="such as DOPRI5; got 'dopri5'"):
        RungeKutta("dopri5")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="step_size must be above 0; got 0.0"):
        RungeKutta(RK4, step_size=0.0)
