from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from solvers import Equilibrium, Picard, solve
from tests.problems import DOUBLE, linear, normal


@given(factor=st.floats(0.1, 0.95), n=st.integers(1, 6), seed=st.integers(0, 99))
def test_error_falls_by_the_contraction_factor_a_step(factor: float, n: int, seed: int) -> None:
    rotation, _ = torch.linalg.qr(normal(seed, n, n))  # every error shrinks by the same factor
    case = linear(2, a=factor * rotation, seed=seed)
    found = solve(case.problem, Picard(rtol=1e-6, max_steps=1000), case.z0, record=True).check()
    assert found.trajectory is not None
    error = (found.trajectory.z - case.answer).norm(dim=2)
    rows = int(found.steps.min()) + 1
    ratio = error[1:rows] / error[: rows - 1]
    # Rounding of 1e-16 in z is 1e-10 of an error of 1e-6.
    torch.testing.assert_close(ratio, torch.full_like(ratio, factor), rtol=1e-8, atol=0)


@given(damping=st.floats(0.05, 1.0), slope=st.floats(-2.0, 0.9))
def test_damping_moves_the_contraction_factor(damping: float, slope: float) -> None:
    problem = Equilibrium(lambda z: slope * z + 1)
    start = torch.zeros(1, 2, dtype=DOUBLE)
    found = solve(problem, Picard(rtol=1e-12, max_steps=3, damping=damping), start)
    root = 1 / (1 - slope)
    factor = 1 - damping + damping * slope
    torch.testing.assert_close(
        found.value, torch.full_like(start, root * (1 - factor**3)), rtol=1e-12, atol=1e-12
    )


def test_damping_reaches_a_stable_equilibrium_that_plain_iteration_leaves() -> None:
    problem = Equilibrium(lambda z: -2 * z + 3)  # slope -2; z' = f(z) - z is stable
    start = torch.zeros(1, 1, dtype=DOUBLE)
    assert not solve(problem, Picard(), start).converged
    found = solve(problem, Picard(damping=0.5), start).check()
    torch.testing.assert_close(found.value, torch.ones_like(start), rtol=0, atol=2e-4)


def test_number_of_steps_is_that_of_the_geometric_series() -> None:
    found = solve(Equilibrium(lambda z: 0.5 * z + 1), Picard(), torch.zeros(1, 1, dtype=DOUBLE))
    # z_k = 2 (1 - 2^-k), the residual is 2^-k / (2 - 2^-k) <= 1e-4 first at k = 13.
    assert found.steps.tolist() == [13]
