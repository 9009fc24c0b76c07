from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from solvers import (
    Anderson,
    Equilibrium,
    Flow,
    NewtonKrylov,
    Picard,
    PseudoTransient,
    Robust,
    Solver,
    State,
    Status,
    Then,
    solve,
)
from tests.problems import DOUBLE, normal


def slopes(*values: float, batch_seen: list[int] | None = None) -> Equilibrium:
    """z = slope z + 1, a slope for each sample."""

    def f(z: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        if batch_seen is not None:
            batch_seen.append(z.shape[0])
        return slope * z + 1

    return Equilibrium(f, (torch.tensor(values, dtype=DOUBLE)[:, None],), rowwise=True)


def test_only_failed_samples_are_handed_on_and_steps_say_who_solved_them() -> None:
    seen: list[int] = []
    problem = slopes(0.1, 3.0, 0.5, -4.0, batch_seen=seen)
    ladder = Then(Picard(max_steps=20), NewtonKrylov())
    found = solve(problem, ladder, torch.zeros(4, 1, dtype=DOUBLE)).check()
    assert found.steps.tolist() == [1, 2, 1, 2]
    alone = solve(slopes(0.1, 3.0, 0.5, -4.0), Picard(max_steps=20), torch.zeros(4, 1).double())
    assert found.evals[[0, 2]].equal(alone.evals[[0, 2]])
    assert (found.evals[[1, 3]] > 21).all()
    assert seen[-1] == 2  # Newton saw two samples
    exact = 1 / (1 - torch.tensor([0.1, 3.0, 0.5, -4.0], dtype=DOUBLE))
    torch.testing.assert_close(found.value[:, 0], exact, rtol=2e-4, atol=0)


def test_closure_runs_on_the_full_batch_with_the_same_answers() -> None:
    start = torch.zeros(4, 1, dtype=DOUBLE)
    open_, ladder = slopes(0.1, 3.0, 0.5, -4.0), Then(Picard(max_steps=20), NewtonKrylov())
    one = solve(open_, ladder, start)
    two = solve(Equilibrium(lambda z: open_(z)), ladder, start)
    assert one.steps.equal(two.steps) and one.status.equal(two.status)
    torch.testing.assert_close(one.value, two.value, rtol=1e-12, atol=1e-12)


def test_failed_iterate_is_left_for_the_start_and_a_near_miss_is_kept() -> None:
    starts: list[torch.Tensor] = []

    def f(z: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
        starts.append(z.clone())
        return slope * z + 1

    slope = torch.tensor([[3.0], [0.9]], dtype=DOUBLE)
    start = torch.full((2, 1), 0.25, dtype=DOUBLE)
    # After 70 steps of slope 0.9 the residual is 6e-5: within 10 times the tolerance 1e-5.
    ladder = Then(Picard(rtol=1e-5, max_steps=70), Picard(rtol=1e-5))
    solve(Equilibrium(f, (slope,), rowwise=True), ladder, start)
    second = starts[73]  # the two before ask whether the near miss is nearer than the start
    assert second[0] == 0.25
    assert abs(float(second[1]) - 10) < 0.1


def test_best_answer_of_all_solvers_is_returned_where_none_converged() -> None:
    """Picard ends on z = -2 z + 3 with a large residual, the flow with a small one."""
    problem = Equilibrium(lambda z: -2 * z + 3)
    flow, plain = Flow(rtol=1e-12, max_steps=4), Picard(rtol=1e-12, max_steps=4)
    start = torch.zeros(1, 1, dtype=DOUBLE)
    alone = solve(problem, flow, start)
    for ladder in (Then(flow, plain), Then(plain, flow)):
        found = solve(problem, ladder, start)
        assert found.status.tolist() == [Status.MAX_STEPS]
        assert found.value.equal(alone.value)
        torch.testing.assert_close(found.residual, alone.residual)


def test_later_solver_replaces_a_nonfinite_sample() -> None:
    problem = Equilibrium(lambda z: z * z - 3.75 * z + 3)  # roots 0.75 and 4
    start = torch.full((1, 1), 5.0, dtype=DOUBLE)
    assert solve(problem, Picard(), start).status.tolist() == [Status.NONFINITE]
    found = solve(problem, Then(Picard(), NewtonKrylov()), start).check()
    assert abs(float(found.value) - 4) < 1e-3


def test_tolerances_are_those_of_the_solvers_within() -> None:
    problem = slopes(0.5, 0.9)
    ladder = Then(Anderson(rtol=1e-2), PseudoTransient(rtol=1e-9))
    found = solve(problem, ladder, torch.zeros(2, 1, dtype=DOUBLE)).check()
    assert (found.residual <= 1e-2).all() and (found.steps == 1).all()


def test_a_ladder_can_be_a_rung() -> None:
    inner = Then(Picard(max_steps=3), Picard(max_steps=5))
    found = solve(slopes(0.1, 3.0), Then(inner, NewtonKrylov()), normal(0, 2, 1)).check()
    assert found.steps.tolist() == [1, 2]


def test_flow_hands_over_to_anderson_for_the_last_digits() -> None:
    problem = slopes(0.9, -1.5, 0.3)
    ladder = Then(Flow(rtol=1e-3), Anderson(rtol=1e-12))
    rough = solve(problem, ladder, torch.zeros(3, 1, dtype=DOUBLE)).check()
    assert (rough.residual <= 1e-3).all()  # each stage stops at its own tolerance


def test_a_last_solver_that_diverges_does_not_take_the_best_answer_with_it() -> None:
    """The flow of z = z - 4 (z^2 - 2) nears sqrt(2), and Picard overflows."""
    problem = Equilibrium(lambda z: z - 4 * (z * z - 2))
    flow, wild = Flow(rtol=1e-12, max_steps=3), Picard(rtol=1e-12)
    start = torch.full((1, 1), 2.0, dtype=DOUBLE)
    alone = solve(problem, flow, start)
    assert solve(problem, wild, start).status.tolist() == [Status.NONFINITE]
    found = solve(problem, Then(flow, wild), start)
    assert found.status.tolist() == alone.status.tolist() == [Status.MAX_STEPS]
    assert found.value.equal(alone.value)
    assert found.residual.equal(alone.residual)
    assert solve(problem, Then(wild, wild), start).status.tolist() == [Status.NONFINITE]


def test_ladder_counts_the_checks_of_its_rungs() -> None:
    problem, start = replace(slopes(0.1, 0.9), rowwise=False), normal(0, 2, 1)
    alone = solve(problem, Picard(max_steps=200), start).check()
    assert alone.checks == 1  # the rows stopped at different steps
    assert solve(problem, Then(Picard(max_steps=200)), start).checks == alone.checks


def test_robust_with_another_tolerance_hands_it_to_every_rung() -> None:
    robust = replace(Robust(max_steps=3), rtol=1e-6)
    assert robust == Robust(rtol=1e-6, max_steps=3)
    assert {each.rtol for each in robust.solvers} == {1e-6}
    assert robust.loosened(1e-2) == Robust(rtol=1e-2, max_steps=3)


def test_root_that_only_the_absolute_tolerance_shows_goes_before_a_failure() -> None:
    # Near its root 0 the relative residual nears 1; at the iterate of the first solver it is .87.
    problem = Equilibrium(lambda z: 0.5 * z + 0.1 * z**3)
    ladder = Then(Picard(max_steps=1), Picard(rtol=1e-12, atol=1e-3))
    found = solve(problem, ladder, torch.ones(1, 1, dtype=DOUBLE)).check()
    assert float(problem.residual(found.value).abs()) <= 1e-3


@dataclass(frozen=True)
class GivesUp(Solver[Equilibrium, State]):
    """Says that it failed, and of the residual that it is not a number."""

    def init(self, problem: Equilibrium, z0: torch.Tensor) -> State:
        failed = torch.full((len(z0),), Status.LOST_PATH, dtype=torch.int8)
        return State(z0, torch.full_like(z0[:, 0], float("nan")), status=failed)

    def step(self, problem: Equilibrium, state: State) -> State:
        return state


def test_failure_without_a_residual_does_not_hide_the_answer_of_the_next() -> None:
    found = solve(slopes(0.5, 0.2), Then(GivesUp(), Anderson()), torch.zeros(2, 1, dtype=DOUBLE))
    assert found.converged.all() and bool((found.residual <= 1e-4).all())
    torch.testing.assert_close(
        found.value, torch.tensor([[2.0], [1.25]]).double(), rtol=2e-4, atol=0
    )


@pytest.mark.parametrize("wrong", [{"max_steps": -1}, {"rtol": -1.0}, {"atol": float("nan")}])
def test_a_ladder_refuses_settings_as_its_solvers_do(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Robust(**wrong)
