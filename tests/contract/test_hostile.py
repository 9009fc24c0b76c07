"""Layouts, scales, and maps that fail at some time: no answer is wrong, and no mate pays for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from solvers import Equilibrium, Status, solve
from tests.problems import DOUBLE, contractions, linear, normal, relative_residual, shared

from .every import AnySolver, every_solver, every_solver_of_any_map, tuned

few = settings(max_examples=4, phases=[Phase.explicit, Phase.generate])
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda t: t.mT.contiguous().mT,
    "every other": lambda t: torch.stack([t, t + 1], -1).flatten(-2)[..., ::2],
    "offset": lambda t: torch.cat([t[:1] + 1, t])[1:],
    "columns": lambda t: t.t().contiguous().t(),
}


@every_solver
@pytest.mark.parametrize("layout", LAYOUTS)
def test_how_a_tensor_lies_in_memory_changes_nothing(solver: AnySolver, layout: str) -> None:
    case, start = shared(norm=0.8), normal(7, 4, 6)
    tight = tuned(solver, rtol=1e-9)
    plain = solve(case.problem, tight, start).check()
    other = LAYOUTS[layout](start)
    assert other.equal(start)
    found = solve(case.problem, tight, other).check()
    # A product may be summed another way.
    torch.testing.assert_close(found.value, plain.value, rtol=0, atol=1e-9)
    torch.testing.assert_close(other, start, rtol=0, atol=0)


@every_solver_of_any_map
def test_rows_of_a_start_may_share_their_memory(solver: AnySolver) -> None:
    case = shared(norm=0.8)
    wide = torch.ones(1, 6, dtype=DOUBLE)
    found = solve(case.problem, tuned(solver, rtol=1e-9), wide.expand(4, 6)).check()
    # 1e-9 of ||f(z)||, of order 1, times 1 / (1 - 0.8).
    torch.testing.assert_close(found.value, case.answer, rtol=0, atol=1e-7)
    assert (wide == 1).all()


N = 5


def spoilt(rows: int, which: int, at: int, once: bool, by: float) -> Equilibrium:
    """z = A z + x, of which one sample's value is `by` from some call of the map on, or at it."""
    calls = 0

    def call(z: Tensor, a: Tensor, x: Tensor, mine: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        now = calls == at if once else calls >= at
        value = (a * z[:, None]).sum(2) + x
        return torch.where(mine & now, by, value)

    mine = (torch.arange(rows) == which)[:, None]
    a = contractions(rows, N, 0.6, 0)
    return Equilibrium(call, (a, normal(1, rows, N), mine), rowwise=True)


@every_solver_of_any_map
@given(
    which=st.integers(0, 2),
    at=st.integers(1, 25),
    once=st.booleans(),
    by=st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e200]),
)
@few
def test_a_sample_that_is_not_finite_at_some_time_is_told_and_no_mate_sees_it(
    solver: AnySolver, which: int, at: int, once: bool, by: float
) -> None:
    problem, tight = spoilt(3, which, at, once, by), tuned(solver, rtol=1e-8, max_steps=200)
    clean = spoilt(3, which, 10**9, once, by)
    found = solve(problem, tight, torch.zeros(3, N, dtype=DOUBLE))
    wanted = solve(clean, tight, torch.zeros(3, N, dtype=DOUBLE)).check().value
    assert found.value.isfinite().all()
    assert Status.RUNNING not in found.status
    mates = torch.arange(3) != which
    assert found.converged[mates].all()
    right = (found.value - wanted).norm(dim=1) <= 1e-6  # 1e-8 of order 1, times 1 / (1 - 0.6)
    assert right[found.converged].all()


class Broken(Exception):
    pass


@every_solver_of_any_map
@given(at=st.integers(1, 6))
@few
def test_what_a_map_raises_is_what_the_caller_gets_and_leaves_nothing_behind(
    solver: AnySolver, at: int
) -> None:
    case, tight = linear(norm=0.9), tuned(solver, rtol=1e-9)
    before = solve(case.problem, tight, case.z0)
    calls, error = 0, Broken("of the caller")

    def raising(*given: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == at:
            raise error
        return case.problem.map(*given)

    with pytest.raises(Broken) as caught:
        solve(replace(case.problem, map=raising), tight, case.z0)
    assert caught.value is error
    after = solve(case.problem, tight, case.z0)
    assert after.value.equal(before.value) and after.evals.equal(before.evals)


@every_solver_of_any_map
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.float64, 1e-100),
        (torch.float64, 1e100),
        (torch.float32, 1e-15),
        (torch.float32, 1e15),
    ],
)
def test_what_is_called_a_root_is_one_at_any_scale(
    solver: AnySolver, dtype: torch.dtype, scale: float
) -> None:
    a, x = contractions(2, N, 0.6, 0).to(dtype), scale * normal(1, 2, N, dtype=dtype)
    problem = Equilibrium(lambda z, a, x: (a * z[:, None]).sum(2) + x, (a, x))
    found = solve(problem, tuned(solver, rtol=1e-4), torch.zeros_like(x))
    assert found.value.isfinite().all()
    residual = relative_residual(problem, found.value)
    assert (residual[found.converged] <= 1.01e-4).all()
    assert found.converged.all()


@every_solver_of_any_map
def test_a_condition_on_another_device_is_refused(solver: AnySolver) -> None:
    problem = Equilibrium(lambda z, x: 0.5 * z + x, (torch.zeros(2, 3, device="meta"),))
    with pytest.raises((RuntimeError, ValueError, TypeError), match="device|meta") as error:
        solve(problem, solver, torch.zeros(2, 3))
    assert str(error.value)
