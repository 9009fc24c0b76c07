"""CONVERGED is a root: not a small residual beside a large z, and not what rounding leaves."""

from __future__ import annotations

import pytest
import torch

from solvers import (
    ArcLength,
    Broyden,
    Continuation,
    Equilibrium,
    Picard,
    Robust,
    Solver,
    Status,
    Then,
    solve,
)
from solvers.homotopy import Newton
from solvers.solver import earned
from tests.minpack import SYSTEMS, trigonometric
from tests.problems import DOUBLE, half

from .every import AnySolver, every_solver, every_solver_of_any_map, tuned

ATOL = 1e-8


@every_solver_of_any_map
@pytest.mark.parametrize(("start", "dtype"), [(0.0, torch.float32), (-50.0, torch.float64)])
def test_residual_that_never_falls_is_no_root_however_large_z_grows(
    solver: AnySolver, start: float, dtype: torch.dtype
) -> None:
    """||f(z) - z|| is 1 for f(z) = z + 1, and relative to f(z) below 1e-2 from z = 99 on."""
    loose = tuned(solver, rtol=1e-2, max_steps=350)
    found = solve(Equilibrium(lambda z: z + 1), loose, torch.full((2, 3), start, dtype=dtype))
    assert not found.converged.any()


@pytest.mark.parametrize(
    "ladder",
    [
        Robust(),
        Robust(rtol=1e-2),
        Then(ArcLength(), ArcLength()),
        Then(Picard(rtol=1e-9, max_steps=9000), Picard(rtol=1e-4), Continuation(rtol=1e-2)),
        Then(ArcLength(), Then(ArcLength(), Picard())),
    ],
    ids=["Robust", "loose", "ArcLength", "Picard", "nested"],
)
def test_ladder_takes_no_failed_answer_for_a_root(ladder: Solver) -> None:
    start = torch.zeros(1, 2, dtype=DOUBLE)
    assert solve(Equilibrium(lambda z: z + 1), ArcLength(), start).status == Status.LOST_PATH
    assert not solve(Equilibrium(lambda z: z + 1), ladder, start).converged.any()


@every_solver_of_any_map
@pytest.mark.parametrize("name", SYSTEMS)
def test_what_converges_on_hard_systems_is_a_root(solver: AnySolver, name: str) -> None:
    """The residual is within atol and eps / 2 ||z|| is, so z - F(z) is rounded by less than 2 atol.

    The roots' own scale is 1; where these systems have none ||F|| is above 1e-4.
    """
    system, start = SYSTEMS[name]
    solver = tuned(solver, rtol=0.0, atol=ATOL, max_steps=120)
    if isinstance(solver, Robust) and name == "trigonometric":
        solver = Then(*solver.solvers[:3])  # its paths take a minute
    found = solve(Equilibrium(lambda z: z - system(z)), solver, start)
    if bool(found.converged):
        assert float(system(found.value).norm()) <= 3 * ATOL


SLOW = "trigonometric"  # one of its paths takes all its 4000 steps


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == SLOW)) for name in SYSTEMS],
)
def test_robust_solves_hard_systems(name: str) -> None:
    system, start = SYSTEMS[name]
    found = solve(Equilibrium(lambda z: z - system(z)), Robust(rtol=0.0, atol=ATOL), start).check()
    assert float(system(found.value).norm()) <= 3 * ATOL


def test_newton_homotopy_solves_what_no_other_rung_of_robust_does() -> None:
    solver = ArcLength(rtol=0.0, atol=ATOL, homotopy=Newton())
    assert solver in Robust(rtol=0.0, atol=ATOL).solvers
    system, start = SYSTEMS[SLOW]
    found = solve(Equilibrium(lambda z: z - system(z)), solver, start).check()
    assert float(system(found.value).norm()) <= 3 * ATOL


def test_rounding_is_no_convergence() -> None:
    """Broyden's method runs to 1e18, where z - F(z) = z: ||F|| = 52 is rounded away."""
    problem = Equilibrium(lambda z: z - trigonometric(z))
    found = solve(problem, Broyden(rtol=0.0, atol=ATOL), torch.full((1, 10), 0.1, dtype=DOUBLE))
    assert found.status == Status.MAX_STEPS
    far = torch.full((1, 10), 1e18, dtype=DOUBLE)
    assert float(problem.residual(far).norm()) == 0 and float(trigonometric(far).norm()) > 1
    for solver in (Broyden(rtol=0.0, atol=ATOL), ArcLength(rtol=0.0, atol=ATOL)):
        assert not solve(problem, solver, far).converged.any()  # not at the start either


@every_solver
def test_start_at_a_root_costs_one_evaluation(solver: AnySolver) -> None:
    root = torch.full((2, 1), 2.0, dtype=DOUBLE)
    found = solve(half(root / 2), tuned(solver, rtol=0.0, atol=1e-12), root)
    assert found.converged.all() and (found.evals == 1).all() and (found.residual == 0).all()


def test_residual_of_zero_at_a_moderate_z_is_convergence() -> None:
    """From 1e-6 on the unstable side of 0 the residual first grows: it must fall below 1e-6."""
    plain = Picard(rtol=0.0, atol=1e-12)
    found = solve(Equilibrium(lambda z: 0.5 * z + 1), plain, torch.zeros(1, 1, dtype=DOUBLE))
    assert found.converged.all()
    pitchfork = Equilibrium(lambda z: torch.tanh(2 * z + 1e-6))
    for dtype, rtol in ((torch.float32, 1e-4), (DOUBLE, 1e-4), (DOUBLE, 1e-12)):
        end = solve(pitchfork, Picard(rtol=rtol), torch.zeros(1, 1, dtype=dtype)).check()
        assert abs(float(end.value) - 0.9575040241) < 2e-6  # z = tanh(2 z), and 1e-6 / 6 more


@pytest.mark.parametrize("rtol", [1e-6, 1e-7])
def test_single_precision_converges_to_its_rounding(rtol: float) -> None:
    """A tolerance of 1e-7 is above the rounding of z, 6e-8."""
    start = torch.linspace(-3, 3, 50)[:, None]
    plain = Picard(rtol=rtol)
    solve(Equilibrium(lambda z: 0.5 * torch.cos(z)), plain, start).check()


def test_residual_that_has_not_fallen_has_earned_nothing() -> None:
    z, first = torch.zeros(3, 2, dtype=DOUBLE), torch.ones(3, dtype=DOUBLE)
    gap = torch.tensor([0.5, 1.0, 2.0], dtype=DOUBLE)
    assert earned(Picard(), z, gap, first).tolist() == [True, False, False]
    assert earned(Picard(), z, gap).all()  # at the caller's own start
