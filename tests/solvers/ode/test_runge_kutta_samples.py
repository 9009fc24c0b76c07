from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from solvers import (
    DOPRI5,
    ODE,
    RK4,
    InitialValue,
    RungeKutta,
    Status,
    Tableau,
    solve,
)
from tests.problems import DOUBLE, normal

from .tableaus import every_pair, every_tableau


def decay(rate: Tensor, closed: bool = False) -> InitialValue:
    """z' = rate (z - cos t)."""
    if closed:
        return InitialValue(lambda t, z: rate * (z - torch.cos(t)))
    return InitialValue(lambda t, z, r: r * (z - torch.cos(t)), condition=(rate,))


@every_tableau
@pytest.mark.parametrize("closed", [False, True], ids=["condition", "closure"])
def test_sample_does_not_see_its_batch_mates(tableau: Tableau, closed: bool) -> None:
    rate = torch.tensor([[-1.0], [-50.0], [float("nan")], [-3.0], [2.0]], dtype=DOUBLE)
    start = normal(0, 5, 4)
    method = RungeKutta(tableau, rtol=1e-5, atol=1e-5, step_size=0.01)
    found = solve(decay(rate, closed), method, start)
    for k in range(5):
        alone = solve(decay(rate[k : k + 1], closed), method, start[k : k + 1])
        assert found.value[k].equal(alone.value[0])
        assert found.evals[k] == alone.evals[0] and found.steps[k] == alone.steps[0]
        assert found.status[k] == alone.status[0]
    assert found.status.tolist() == [1, 1, Status.NONFINITE, 1, 1]
    assert found.value[2].equal(start[2])


def test_stiff_sample_costs_the_easy_ones_nothing() -> None:
    rate = torch.full((64, 1), -1.0)
    rate[17] = -1000.0
    start, rows = 3 + torch.rand(64, 3, generator=torch.Generator().manual_seed(0)), []

    def field(t: Tensor, z: Tensor, r: Tensor) -> Tensor:
        rows.append(z.shape[0])
        return r * (z - torch.cos(t))

    found = solve(InitialValue(field, condition=(rate,), rowwise=True), RungeKutta(), start).check()
    easy = torch.arange(64) != 17
    alone = [solve(decay(rate[k : k + 1]), RungeKutta(), start[k : k + 1]).evals for k in range(64)]
    assert found.evals.equal(torch.cat(alone)) and found.evals[easy].max() <= 20
    shared = solve(decay(rate), ODE(), start).check()  # torchdiffeq
    assert found.evals[17] <= shared.evals[0] and shared.evals[0] > 20 * found.evals[easy].max()
    # Once they have finished, the field runs on the stiff sample alone.
    assert sum(rows) == int(found.evals.sum())


def test_easy_samples_beside_a_stiff_one_cost_less_than_in_torchode() -> None:
    """torchode has steps of each sample's own, and evaluates all until the last is there."""
    torchode = pytest.importorskip("torchode")
    rate = torch.full((65, 1), -1.0)
    rate[17] = -1000.0
    start = 3 + torch.rand(65, 3, generator=torch.Generator().manual_seed(0))
    term = torchode.ODETerm(lambda t, z: rate * (z - torch.cos(t)[:, None]))
    control = torchode.IntegralController(atol=1e-3, rtol=1e-3, term=term)
    solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
    ends = {"t_start": torch.zeros(65), "t_end": torch.ones(65)}
    theirs = solver.solve(torchode.InitialValueProblem(y0=start, **ends))
    ours = solve(decay(rate), RungeKutta(), start).check()
    assert float((ours.value - theirs.ys[:, -1]).abs().max()) < 5e-3
    easy = torch.arange(65) != 17
    assert 50 * ours.evals[easy].max() < theirs.stats["n_f_evals"][easy].min()


@every_pair
def test_blow_up_ends_with_a_step_too_small_where_it_happens(tableau: Tableau) -> None:
    """z' = rate z^2, z(0) = 1: z = 1 / (1 - rate t), which ends at t = 1 / rate."""
    rate = torch.tensor([[0.5], [10.0], [-1.0]], dtype=DOUBLE)
    problem = InitialValue(lambda t, z, r: r * z * z, condition=(rate,))
    method = RungeKutta(tableau, rtol=1e-6, atol=1e-6)
    found = solve(problem, method, torch.ones(3, 1, dtype=DOUBLE))
    assert found.status.tolist() == [1, Status.STEP_TOO_SMALL, 1]
    assert found.residual[1].item() == pytest.approx(0.9, abs=1e-6)  # the part of [0, 1] left
    torch.testing.assert_close(
        found.value[[0, 2], 0], torch.tensor([2.0, 0.5]).double(), rtol=1e-4, atol=0
    )
    few = solve(problem, replace(method, max_steps=2), torch.ones(3, 1, dtype=DOUBLE))
    assert (few.status == Status.MAX_STEPS).all() and (few.steps == 2).all()
    assert ((few.residual > 0) & (few.residual < 1)).all()


@every_tableau
@pytest.mark.parametrize("lasts", [0.0, 0.3])
def test_field_that_is_not_a_number_ends_nonfinite(tableau: Tableau, lasts: float) -> None:
    """z' = sqrt(lasts - t), whose end a stage of every method oversteps."""
    ends = torch.tensor([[lasts], [2.0]], dtype=DOUBLE)
    flow = InitialValue(lambda t, z, end: torch.sqrt(end - t) + 0 * z - 1, condition=(ends,))
    found = solve(flow, RungeKutta(tableau), torch.ones(2, 1, dtype=DOUBLE))
    assert found.status.tolist() == [Status.NONFINITE, Status.CONVERGED]
    assert found.value[0] == 1 and found.residual[0] == float("inf")


@every_tableau
def test_overflow_is_no_success(tableau: Tableau) -> None:
    found = solve(
        InitialValue(lambda t, z: torch.full_like(z, 3e38), 0.0, 10.0),
        RungeKutta(tableau),
        torch.ones(1, 2),
    )
    assert not found.converged.any() and torch.isfinite(found.value).all()


@every_tableau
def test_recording_changes_neither_the_steps_nor_the_answer(tableau: Tableau) -> None:
    rate = torch.tensor([[-1.0], [-50.0], [-3.0]], dtype=DOUBLE)
    start = normal(0, 3, 4)
    method = RungeKutta(tableau, step_size=0.01)
    plain = solve(decay(rate), method, start).check()
    found = solve(decay(rate), method, start, record=True).check()
    for name in ("value", "steps", "evals"):
        assert getattr(found, name).equal(getattr(plain, name))
    path = found.trajectory
    assert path is not None and path.time is not None and path.time.dtype == DOUBLE
    assert path.z[0].equal(start) and path.z[-1].equal(plain.value)
    assert (path.time[-1] == 1).all() and (path.time[0] == 0).all()
    assert (path.time.diff(dim=0) >= 0).all() and path.evals[-1] == plain.evals.max()


@every_pair
def test_field_whose_rows_depend_on_each_other_is_refused_or_one_system(tableau: Tableau) -> None:
    """z' = mean(z) - z: the mean stays, and the rest decays."""
    z0 = torch.tensor([[1.0], [2.0], [6.0]], dtype=torch.float64)

    def field(t: Tensor, z: Tensor) -> Tensor:
        return z.mean(0, keepdim=True) - z

    solver = RungeKutta(tableau, rtol=1e-8, atol=1e-10)
    with pytest.raises(ValueError, match="rows depend on each other.*coupled=True"):
        solve(InitialValue(field), solver, z0)
    found = solve(InitialValue(field, coupled=True), solver, z0)
    exact = 3 + (z0 - 3) * math.exp(-1)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.value, exact, rtol=1e-6, atol=0)  # 100 local errors
    equal = solve(InitialValue(field), RungeKutta(RK4, step_size=0.01), z0)  # one time for all
    torch.testing.assert_close(equal.value, exact, rtol=1e-8, atol=0)


def test_promise_that_rows_are_independent_spares_the_question() -> None:
    calls: list[int] = []

    def field(t: Tensor, z: Tensor) -> Tensor:
        calls.append(1)
        return -z

    z0 = torch.ones(3, 2, dtype=torch.float64)
    asked = solve(InitialValue(field), RungeKutta(), z0)
    count = len(calls)
    calls.clear()
    spared = solve(InitialValue(field, rowwise=True), RungeKutta(), z0)
    assert count == len(calls) + 1
    assert torch.equal(asked.evals, spared.evals) and torch.equal(asked.value, spared.value)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("rate", [1.0, 100.0])
def test_first_step_is_that_of_the_literature(rate: float, sign: int) -> None:
    """Hairer et al., II.4, for z' = -rate z from 1: norms are in units of atol + rtol = 2e-3."""
    problem = InitialValue(lambda t, z: -sign * rate * z, 0.0, sign * 1.0, rowwise=True)
    state = RungeKutta(DOPRI5).init(problem, torch.ones(2, 1, dtype=DOUBLE))
    d0, d1, d2 = (rate**k / 2e-3 for k in range(3))
    h0 = 0.01 * d0 / d1
    h1 = (0.01 / max(d1, d2)) ** (1 / 5)
    wanted = sign * min(100 * h0, h1)
    torch.testing.assert_close(state.h, torch.full((2,), wanted, dtype=DOUBLE), rtol=1e-6, atol=0)


def test_recorded_sample_that_is_not_finite_stands_at_its_start_and_its_time() -> None:
    rate = torch.tensor([[1.0], [float("nan")]], dtype=DOUBLE)
    problem = InitialValue(lambda t, z, r: r * z, 3.0, 4.0, (rate,))
    found = solve(problem, RungeKutta(), torch.ones(2, 1, dtype=DOUBLE), record=True)
    assert found.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    path = found.trajectory
    assert path is not None and path.time is not None
    assert path.time[-1].tolist() == [4, 3] and float(path.z[-1, 1]) == 1
