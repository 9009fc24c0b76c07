"""What every solver says of a sample that it cannot solve."""

from __future__ import annotations

import pytest
import torch

from solvers import Equilibrium, Robust, SolveError, Status, Then, solve
from tests.problems import (
    DOUBLE,
    contractions,
    normal,
    relative_residual,
    rootless,
    shared,
    tanh_suite,
)

from .every import (
    EQUILIBRIUM,
    PATHS,
    AnySolver,
    every,
    every_solver,
    every_solver_of_any_map,
    every_stepping_solver,
    every_stepping_solver_of_any_map,
    tuned,
)


@every_solver_of_any_map
def test_failure_is_a_status_and_raises_nothing(solver: AnySolver) -> None:
    short = tuned(solver, max_steps=20)
    solution = solve(rootless(3), short, torch.zeros(3, 3, dtype=DOUBLE))
    assert not solution.converged.any()
    assert Status.RUNNING not in solution.status
    assert torch.isfinite(solution.value).all()
    with pytest.raises(SolveError) as error:
        solution.check()
    assert error.value.solution is solution


@every_stepping_solver
def test_steps_that_do_not_suffice_end_as_max_steps(solver: AnySolver) -> None:
    case = shared(norm=0.9)
    solution = solve(case.problem, tuned(solver, rtol=1e-12, max_steps=2), case.z0)
    assert (solution.status == Status.MAX_STEPS).all()
    with pytest.raises(SolveError, match="reached max_steps"):
        solution.check()


@every_stepping_solver
@pytest.mark.parametrize("steps", [0, 1, 2])
def test_few_steps_are_taken_counted_and_judged(solver: AnySolver, steps: int) -> None:
    case = shared(norm=0.9)
    solution = solve(case.problem, tuned(solver, rtol=1e-12, max_steps=steps), case.z0)
    taken = len(solver.solvers) if isinstance(solver, Then) else steps  # it counts solvers
    assert (solution.steps == taken).all()
    torch.testing.assert_close(
        solution.residual, relative_residual(case.problem, solution.value), rtol=1e-9, atol=0
    )
    if steps == 0:
        assert solution.value.equal(case.z0)
    else:
        assert (solution.residual < relative_residual(case.problem, case.z0)).all()


@every_solver_of_any_map
def test_map_that_is_not_a_number_ends_nonfinite_at_the_start(solver: AnySolver) -> None:
    start = normal(0, 2, 3)
    solution = solve(Equilibrium(lambda z: z * float("nan")), solver, start)
    assert (solution.status == Status.NONFINITE).all()
    assert solution.value.equal(start)
    assert (solution.residual == float("inf")).all()
    with pytest.raises(SolveError):
        solution.check()


@every_solver
def test_start_that_is_not_a_number_ends_nonfinite(solver: AnySolver) -> None:
    case = shared(batch=2)
    start = case.z0.clone()
    start[1] = float("inf")
    solution = solve(case.problem, solver, start)
    assert solution.status.tolist() == [Status.CONVERGED, Status.NONFINITE]


@every_solver_of_any_map
def test_overflow_is_no_success(solver: AnySolver) -> None:
    doubling = Equilibrium(lambda z: torch.exp(z * z) + 2)  # above z everywhere
    start = torch.zeros(1, 2, dtype=torch.float32)
    solution = solve(doubling, tuned(solver, max_steps=40), start)
    assert not solution.converged.any()
    assert torch.isfinite(solution.value).all()


@every_solver_of_any_map
def test_map_without_fixed_point_is_not_solved_at_infinity(solver: AnySolver) -> None:
    """z = z + 1 has a singular I - J: a Newton step to 1e45 would have a residual of 0."""
    tight = tuned(solver, rtol=1e-6, max_steps=40)
    for dtype in (torch.float32, torch.float64):
        solution = solve(Equilibrium(lambda z: z + 1), tight, torch.zeros(2, 3, dtype=dtype))
        assert not solution.converged.any()


@every_stepping_solver_of_any_map
def test_residual_of_a_failed_sample_is_that_of_its_value(solver: AnySolver) -> None:
    problem = tanh_suite(3.0, draws=8, n=20)
    solution = solve(problem, tuned(solver, max_steps=12), torch.zeros(8, 20, dtype=DOUBLE))
    assert not solution.converged.all()
    usable = solution.status != Status.NONFINITE
    residual = relative_residual(problem, solution.value)
    torch.testing.assert_close(solution.residual[usable], residual[usable], rtol=1e-6, atol=1e-14)
    assert torch.isinf(solution.residual[~usable]).all()


# Paths stay where they were before the root that they could not reach.
@every([solver for solver in EQUILIBRIUM if solver not in PATHS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tolerance_below_rounding_ends_near_the_root(solver: AnySolver, dtype: torch.dtype) -> None:
    a, x = contractions(3, 10, 0.8, 0).to(dtype), normal(1, 3, 10, dtype=dtype)
    problem = Equilibrium(lambda z, a, x: torch.tanh((a @ z[..., None])[..., 0] + x), (a, x))
    eps = torch.finfo(dtype).eps
    steps = 15 if isinstance(solver, Robust) else 150  # of each rung, of which some follow paths
    unreachable = tuned(solver, rtol=eps / 100, max_steps=steps)
    solution = solve(problem, unreachable, torch.zeros_like(x))
    assert (solution.status != Status.NONFINITE).all()
    # What is left is rounding: a few hundred operations a component.
    assert (relative_residual(problem, solution.value) <= 300 * eps).all()
