from __future__ import annotations

import pytest
import torch

from solvers import Equilibrium, NewtonKrylov, Picard, Solution, SolveError, Status, solve
from solvers.status import summarize
from tests.problems import DOUBLE


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
