from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from solvers import GMRES, Equilibrium, NewtonKrylov, Picard, PseudoTransient, solve
from tests.problems import DOUBLE, contractions, linear, normal, tanh, tanh_suite


@given(n=st.integers(1, 8), seed=st.integers(0, 199))
def test_linear_equation_takes_one_step_to_the_linear_tolerance(n: int, seed: int) -> None:
    case = linear(2, n, 0.9, seed)
    found = solve(case.problem, NewtonKrylov(max_steps=1), case.z0)
    # GMRES leaves 0.3 of the residual at most, which at f(z) is no larger than at z.
    gap = case.problem.residual(found.value).norm(dim=1)
    assert (gap <= 0.3 * case.problem.residual(case.z0).norm(dim=1) * (1 + 1e-9)).all()


def test_convergence_is_quadratic() -> None:
    """e_{k+1} / e_k^2 -> f'' / (2 (f' - 1)): scalars, where GMRES is exact."""
    f = Equilibrium(lambda z: torch.cos(z))
    root = 0.7390851332151607  # OEIS A003957
    start = torch.tensor([[0.9]], dtype=DOUBLE)
    found = solve(f, NewtonKrylov(rtol=1e-14, halvings=0), start, record=True)
    assert found.trajectory is not None
    error = (found.trajectory.z[:, 0, 0] - root).abs()
    ratio = torch.tensor(root).cos() / (2 * (1 + torch.tensor(root).sin()))
    # e_k is 0.16, 5e-3, 6e-6, 8e-12: the ratio settles before rounding.
    torch.testing.assert_close(error[2] / error[1] ** 2, ratio.double(), rtol=1e-2, atol=0)
    torch.testing.assert_close(error[3] / error[2] ** 2, ratio.double(), rtol=1e-3, atol=0)


def test_convergence_is_superlinear_with_inexact_products() -> None:
    problem = tanh_suite(0.9, draws=4, n=20)
    start = torch.zeros(4, 20, dtype=DOUBLE)
    found = solve(problem, NewtonKrylov(rtol=1e-12), start, record=True).check()
    assert found.trajectory is not None
    for k, steps in enumerate(found.steps.tolist()):
        residual = found.trajectory.residual[:, k]
        # The linear tolerance is the root of the residual: order 1.5 down to 1e-8. The last step
        # stops at half of what is wanted.
        assert residual[steps - 1] <= 1e-2 * residual[steps - 2]
        assert steps <= 8


def test_a_step_begins_at_the_better_of_z_and_its_image() -> None:
    """J(0) of a map with a norm in it is immense: a Krylov space there leads nowhere."""
    start = torch.zeros(4, 40, dtype=DOUBLE)

    def cell(z: torch.Tensor, w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        linear = torch.bmm(w, z[:, :, None])[:, :, 0]
        return torch.tanh(0.2 * linear * (linear.square().mean(1, True) + 1e-5).rsqrt() + x)

    problem = Equilibrium(cell, (contractions(4, 40, 1.0, 0), normal(1, 4, 40)))
    assert (problem(start) - start).norm() > (problem(problem(start)) - problem(start)).norm()
    found = solve(problem, NewtonKrylov(rtol=1e-8), start).check()
    # 23; from z = 0 the first step alone takes all 40 products, and the whole 127 to 141.
    assert found.evals.max() <= 30
    root = solve(problem, Picard(rtol=1e-10), start).value
    torch.testing.assert_close(found.value, root, rtol=0, atol=1e-6)  # 40 entries below 1


def test_line_search_halves_a_step_that_is_too_long() -> None:
    """Newton's method diverges on arctan from 3: |z| > 1.3917 (the classical example)."""
    problem = Equilibrium(lambda z: z - torch.atan(z))
    start = torch.full((1, 1), 3.0, dtype=DOUBLE)
    tight = {"atol": 1e-10, "rtol": 1e-12}
    whole = solve(problem, NewtonKrylov(halvings=0, max_steps=1), start).value
    # Where no length helps it steps to f(z).
    torch.testing.assert_close(whole, start - torch.atan(start))
    found = solve(problem, NewtonKrylov(**tight), start, record=True).check()
    assert found.value.abs() < 1e-9
    assert found.trajectory is not None
    gap = torch.atan(found.trajectory.z[:, 0, 0]).abs()
    assert (gap.diff() <= 0).all()  # the residual norm never grows


def test_newton_solves_what_is_unstable_for_picard() -> None:
    case = linear(3, norm=0.9)
    a, x = case.problem.condition or ()
    unstable = Equilibrium(case.problem.map, (5 * a, x))
    answer = torch.linalg.solve(torch.eye(6, dtype=DOUBLE) - 5 * a, x)
    assert not solve(unstable, Picard(), case.z0).converged.any()
    found = solve(unstable, NewtonKrylov(rtol=1e-10), case.z0).check()
    torch.testing.assert_close(found.value, answer, rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 2)])
def test_large_delta_is_newton(shape: tuple[int, ...]) -> None:
    a, x = contractions(3, 4, 0.9, 0), normal(1, 3, 4)
    problem = Equilibrium(lambda z, a, x: tanh(z.flatten(1), a, x).view_as(z), (a, x))
    start = normal(2, *shape)
    slow = solve(problem, PseudoTransient(delta=1e8, max_steps=1, linear=GMRES(4)), start)
    newton = solve(problem, NewtonKrylov(halvings=0, max_steps=1, linear=GMRES(4)), start)
    # They differ by 1 / delta.
    torch.testing.assert_close(slow.value, newton.value, rtol=0, atol=1e-6)


def test_small_delta_is_damped_picard() -> None:
    a, x, start = contractions(3, 4, 0.9, 0), normal(1, 3, 4), normal(2, 3, 4)
    problem, delta = Equilibrium(tanh, (a, x)), 1e-5
    implicit = solve(problem, PseudoTransient(delta=delta, max_steps=1), start)
    damped = solve(problem, Picard(damping=delta, max_steps=1), start)
    direction = problem.residual(start)
    torch.testing.assert_close(damped.value, start + delta * direction, rtol=0, atol=1e-15)
    # d = delta (f - z) + O(delta^2); GMRES leaves less than the first order of it.
    torch.testing.assert_close((implicit.value - start) / delta, direction, rtol=0, atol=1e-3)


def test_pseudo_time_grows_with_the_fall_of_the_residual() -> None:
    """Switched evolution relaxation: delta_k = delta_0 ||F_0|| / ||F_k||, if unclamped."""
    problem, start = Equilibrium(tanh, (contractions(2, 4, 0.5, 0), normal(1, 2, 4))), None
    start = normal(2, 2, 4)
    solver = PseudoTransient(delta=0.3, growth=1e6)
    state = solver.init(problem, start)
    first = (state.fz - state.z).norm(dim=1)
    for _ in range(4):
        state = solver.step(problem, state)
        wanted = 0.3 * first / (state.fz - state.z).norm(dim=1)
        torch.testing.assert_close(state.delta, wanted, rtol=1e-10, atol=0)


def test_pseudo_transient_finds_the_stable_root_from_far_off() -> None:
    """z = tanh(4 z) has the roots 0, unstable, and +-0.9993 (where Newton may jump over)."""
    problem = Equilibrium(lambda z: torch.tanh(4 * z))
    start = torch.tensor([[0.3], [-0.3], [5.0], [-5.0]], dtype=DOUBLE)
    found = solve(problem, PseudoTransient(delta=0.3, rtol=1e-10), start).check()
    root = 1.0
    for _ in range(20):  # contracts by 4 (1 - z^2) = 5e-3 a step
        root = math.tanh(4 * root)
    assert (
        found.value[:, 0] - root * torch.tensor([1, -1, 1, -1], dtype=DOUBLE)
    ).abs().max() < 1e-9
