from __future__ import annotations

import pytest
import torch

from solvers import (
    Anderson,
    Broyden,
    Equilibrium,
    NewtonKrylov,
    Picard,
    Solution,
    SolveError,
    Status,
    solve,
)
from solvers.status import summarize
from tests.problems import DOUBLE, contractions, normal


def solution(*status: Status, residual: float = 0.012) -> Solution:
    codes = torch.tensor(status, dtype=torch.int8)
    count = torch.ones(len(status), dtype=torch.int64)
    worst = torch.full((len(status),), 1e-5).index_fill(0, torch.tensor([0]), residual)
    return Solution(torch.zeros(len(status), 2), codes, count, count, worst)


def test_error_counts_the_causes_and_says_what_to_do() -> None:
    found = solution(Status.MAX_STEPS, Status.CONVERGED, Status.NONFINITE, Status.MAX_STEPS)
    with pytest.raises(SolveError) as error:
        found.check()
    said = str(error.value)
    assert said.startswith("3 of 4 samples did not converge (worst residual 1.2e-02): ")
    assert "2 reached max_steps (raise it, loosen the tolerance" in said
    assert "1 became non-finite (" in said
    assert error.value.solution is found


def test_every_status_has_advice() -> None:
    for status in Status:
        assert status.advice
    assert summarize(torch.tensor([1, 1])) == ""


def test_converged_solution_reports_nothing() -> None:
    found = solution(Status.CONVERGED, Status.CONVERGED)
    assert found.report() == "" and found.check() is found and found.converged.all()


def test_report_says_infinity_where_a_sample_is_no_number() -> None:
    problem = Equilibrium(lambda z: z * float("nan"))
    assert "worst residual inf" in solve(problem, Picard(), torch.zeros(1, 2)).report()


@pytest.mark.parametrize("solver", [Picard(), NewtonKrylov()])
def test_numbers_of_a_solution_are_per_sample(solver: Picard | NewtonKrylov) -> None:
    problem = Equilibrium(lambda z: 0.5 * z + 1)
    found = solve(problem, solver, torch.zeros(3, 2, 2, dtype=DOUBLE))
    for each in (found.status, found.steps, found.evals, found.residual, found.converged):
        assert each.shape == (3,)
    assert found.value.shape == (3, 2, 2)


def test_states_are_kept_where_they_are_asked_for_each_as_if_it_were_alone() -> None:
    w, x = contractions(1, 30, 0.8, 0)[0].requires_grad_(), normal(1, 4, 30)
    x = x * torch.tensor([[0], [1e-3], [1.0], [10.0]])  # they stop at different steps
    problem, z0 = Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), (x,)), torch.zeros_like(x)
    for solver in (Anderson(), Broyden()):  # Anderson's history begins after some steps
        assert solve(problem, solver, z0).states == ()
        found = solve(problem, solver, z0, keep_states=True)
        order = torch.cat([rows for rows, _ in found.states])
        assert order.sort().values.tolist() == [0, 1, 2, 3] and len(found.states) > 2
        assert torch.cat([state.z for _, state in found.states]).equal(found.value[order])
        assert not any(state.fz.requires_grad for _, state in found.states)
    for rows, state in found.states:
        ((_, alone),) = solve(problem.rows(rows), Broyden(), z0[rows], keep_states=True).states
        torch.testing.assert_close(state.left, alone.left, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(state.right, alone.right, rtol=1e-6, atol=1e-9)


def test_factors_that_broyden_leaves_give_a_nearer_gradient_than_none() -> None:
    """SHINE: its inverse Jacobian, transposed, in the place of (I - J^T)^-1; JFB takes 1."""
    w, x = contractions(1, 4, 0.8, 0)[0], normal(1, 1, 4)
    problem = Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), (x,))
    found = solve(problem, Broyden(rtol=1e-10), torch.zeros_like(x), keep_states=True)
    ((_, state),) = found.states
    v = normal(2, 1, 4)
    shine = v - (state.right.mT @ (state.left @ v[:, :, None])).squeeze(2)  # -H^T v
    slope = 1 - torch.tanh(found.value @ w.mT + x) ** 2
    adjoint = torch.eye(4, dtype=DOUBLE) - (slope[:, :, None] * w).mT  # I - J^T
    exact = torch.linalg.solve(adjoint, v)
    assert (shine - exact).norm() < 0.5 * (v - exact).norm()
