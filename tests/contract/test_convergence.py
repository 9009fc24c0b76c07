"""What every solver does where the equation has an answer that it can reach."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solvers import Anderson, Equilibrium, Status, Then, solve
from tests.problems import (
    DOUBLE,
    contractions,
    conv_cell,
    half,
    linear,
    normal,
    pair,
    relative_residual,
    shared,
    tanh,
    tanh_suite,
)

from .every import (
    EQUILIBRIUM,
    AnySolver,
    every_solver,
    every_solver_of_any_map,
    name,
    tuned,
)


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).norm(dim=1)


@every_solver_of_any_map
@given(
    batch=st.integers(1, 4),
    n=st.integers(1, 8),
    norm=st.floats(0.05, 0.9),
    digits=st.integers(2, 11),
    seed=st.integers(0, 999),
)
@settings(max_examples=12)
def test_reaches_the_closed_form_at_the_requested_tolerance(
    solver: AnySolver, batch: int, n: int, norm: float, digits: int, seed: int
) -> None:
    case, rtol = linear(batch, n, norm, seed), 10.0**-digits
    solution = solve(case.problem, tuned(solver, rtol=rtol, max_steps=1000), case.z0)
    assert solution.converged.all()
    # z - z* = (I - A)^-1 (f(z) - z) up to sign, and ||(I - A)^-1|| <= 1 / (1 - ||A||).
    bound = rtol * case.problem(solution.value).norm(dim=1) / (1 - norm)
    assert (distance(solution.value, case.answer) <= 1.001 * bound).all()


@every_solver
def test_needs_no_argument(solver: AnySolver) -> None:
    fresh = Then(Anderson()) if isinstance(solver, Then) else type(solver)()
    case = shared()
    solution = solve(case.problem, fresh, case.z0).check()
    assert (solution.residual <= 1e-4).all()  # the default tolerance


@every_solver_of_any_map
@pytest.mark.parametrize("gain", [0.7, 1.5, 2.5])
@pytest.mark.parametrize("rtol", [1e-3, 1e-8])
def test_converged_means_a_verified_residual_within_tolerance(
    solver: AnySolver, gain: float, rtol: float
) -> None:
    problem = tanh_suite(gain, draws=6, n=12)
    solution = solve(problem, tuned(solver, rtol=rtol, max_steps=30), torch.zeros(6, 12).double())
    residual = relative_residual(problem, solution.value)
    # A matrix product of another batch size may round the last digits another way.
    torch.testing.assert_close(solution.residual, residual, rtol=1e-6, atol=1e-14)
    assert (residual[solution.converged] <= rtol * (1 + 1e-6)).all()
    assert (solution.residual <= rtol).equal(solution.converged)


@every_solver
def test_warm_start_at_the_solution_costs_one_evaluation(solver: AnySolver) -> None:
    case = shared()
    solution = solve(case.problem, solver, case.answer)
    assert solution.converged.all()
    assert (solution.evals == 1).all()
    assert solution.value.equal(case.answer)


@every_solver
def test_solution_can_be_the_start_of_the_next_solve(solver: AnySolver) -> None:
    case = shared()
    first = solve(case.problem, tuned(solver, rtol=1e-6), case.z0)
    again = solve(case.problem, solver, first)
    assert (again.evals == 1).all()
    assert again.value.equal(first.value)


@every_solver
def test_absolute_tolerance_alone_is_enough_for_a_root_at_zero(solver: AnySolver) -> None:
    problem, start = half(torch.zeros(3, 4, dtype=DOUBLE)), normal(3, 3, 4)
    solution = solve(problem, tuned(solver, rtol=1e-12, atol=1e-6), start).check()
    # |f(z) - z| = |z| / 2 <= rtol |f(z)| + atol.
    assert (solution.value.norm(dim=1) <= 2 * 1e-6 * (1 + 1e-6)).all()
    near = solve(problem, tuned(solver, rtol=1e-12, atol=1e-6), 1e-7 * start)
    assert near.converged.all() and (near.evals == 1).all()


@every_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answer_has_the_type_of_the_start(solver: AnySolver, dtype: torch.dtype) -> None:
    case = shared(dtype=dtype)
    solution = solve(case.problem, tuned(solver, rtol=1e-5), case.z0).check()
    assert solution.value.dtype == dtype
    assert solution.residual.dtype == dtype
    assert solution.status.dtype == torch.int8
    assert solution.steps.dtype == solution.evals.dtype == torch.int64
    # rtol / (1 - ||A||) with ||A|| = 1/2, and ||f(z)|| close to ||z*||.
    assert (distance(solution.value, case.answer) <= 3e-5 * case.answer.norm(dim=1)).all()


@every_solver_of_any_map
def test_works_where_autocast_evaluates_the_map_in_bfloat16(solver: AnySolver) -> None:
    weight = 0.5 * torch.linalg.qr(normal(0, 8, 8, dtype=torch.float32))[0]
    x = normal(1, 3, 8, dtype=torch.float32)
    problem = Equilibrium(lambda z, x: torch.nn.functional.linear(z, weight) + x, (x,))
    exact = torch.linalg.solve(torch.eye(8) - weight, x.mT).mT
    with torch.autocast("cpu", torch.bfloat16):
        solution = solve(problem, tuned(solver, rtol=2e-2), torch.zeros_like(x)).check()
    assert solution.value.dtype == torch.float32
    # bfloat16 has 8 bits: each evaluation is off by up to 2^-8 besides the tolerance, times 2.
    assert (distance(solution.value, exact) <= 6e-2 * exact.norm(dim=1)).all()


@every_solver_of_any_map
@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e4])
def test_scaling_the_problem_changes_no_evaluation_count(solver: AnySolver, scale: float) -> None:
    a, x = contractions(3, 8, 0.9, 5), normal(6, 3, 8)

    def scaled(s: float) -> Equilibrium:
        return Equilibrium(lambda z, a, x: s * tanh(z / s, a, x), (a, x))

    accurate, start = tuned(solver, rtol=1e-6), torch.zeros_like(x)
    one = solve(scaled(1.0), accurate, start)
    other = solve(scaled(scale), accurate, start)
    assert one.converged.all()
    assert one.evals.equal(other.evals)
    torch.testing.assert_close(other.value / scale, one.value, rtol=1e-6, atol=1e-9)


@every_solver_of_any_map
def test_state_may_have_any_shape(solver: AnySolver) -> None:
    problem, z0 = conv_cell()
    flat = Equilibrium(lambda z, x: problem.map(z.view_as(x), x).flatten(1), problem.condition)
    image = solve(problem, tuned(solver, rtol=1e-9, max_steps=500), z0).check()
    vector = solve(flat, tuned(solver, rtol=1e-9, max_steps=500), z0.flatten(1)).check()
    assert image.value.shape == z0.shape
    torch.testing.assert_close(image.value.flatten(1), vector.value, rtol=0, atol=1e-12)
    assert image.steps.equal(vector.steps)


@every_solver_of_any_map
def test_state_may_be_a_tuple_of_tensors(solver: AnySolver) -> None:
    problem, start, case = pair()
    both = solve(problem, tuned(solver, rtol=1e-9, max_steps=500), start, record=True).check()
    one = solve(case.problem, tuned(solver, rtol=1e-9, max_steps=500), case.z0, record=True)
    assert [part.shape for part in both.value] == [(3, 2), (3, 2, 2)]
    joined = torch.cat([part.flatten(1) for part in both.value], 1)
    torch.testing.assert_close(joined, one.value, rtol=0, atol=1e-12)
    assert both.steps.equal(one.steps) and both.evals.equal(one.evals)
    assert both.trajectory is not None and one.trajectory is not None
    path = torch.cat([part.flatten(2) for part in both.trajectory.z], 2)
    torch.testing.assert_close(path, one.trajectory.z, rtol=0, atol=1e-12)
    again = solve(problem, solver, both)
    assert (again.evals == 1).all()


def test_every_solver_finds_the_same_root_along_its_own_path() -> None:
    problem = tanh_suite(0.6, draws=4, n=20)
    start = torch.zeros(4, 20, dtype=DOUBLE)
    tight = [tuned(solver, rtol=1e-11, max_steps=1000) for solver in EQUILIBRIUM]
    roots = {name(solver): solve(problem, solver, start).check().value for solver in tight}
    for root in roots.values():
        # (I - J)^-1 of these draws has norm below 10.
        torch.testing.assert_close(root, roots["Picard"], rtol=0, atol=1e-9)


@every_solver
def test_statuses_are_numbers_with_advice(solver: AnySolver) -> None:
    case = shared()
    solution = solve(case.problem, solver, case.z0)
    assert set(solution.status.tolist()) == {Status.CONVERGED}
    assert solution.report() == ""
    assert solution.check() is solution


@every_solver_of_any_map
def test_inference_mode_changes_nothing(solver: AnySolver) -> None:
    case = linear()
    plain = solve(case.problem, solver, case.z0)
    with torch.inference_mode():
        a, x = (t.clone() for t in case.problem.condition or ())
        found = solve(Equilibrium(case.problem.map, (a, x)), solver, torch.zeros_like(x))
    assert found.evals.equal(plain.evals) and found.value.equal(plain.value)


@every_solver_of_any_map
def test_numbers_made_in_inference_mode_are_solved_as_others(solver: AnySolver) -> None:
    case = linear()
    plain = solve(case.problem, solver, case.z0)
    with torch.inference_mode():
        condition = tuple(t.clone() for t in case.problem.condition or ())
        z0 = case.z0.clone()
    found = solve(Equilibrium(case.problem.map, condition), solver, z0)
    assert found.evals.equal(plain.evals) and found.value.equal(plain.value)
