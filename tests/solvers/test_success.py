"""How often the escalation succeeds on random equilibria, and that no label is wrong."""

from __future__ import annotations

import pytest
import torch

from solvers import Anderson, Continuation, PseudoTransient, Solver, Then, solve
from tests.problems import DOUBLE, relative_residual, tanh_suite

# The least share of 40 draws at n = 50 for Then(Anderson, Continuation, PseudoTransient).
LEAST = {0.5: 1.0, 1.6: 1.0, 2.0: 0.95, 3.0: 0.85}


def rate(gain: float, solver: Solver, rtol: float, draws: int = 40, seed: int = 0) -> float:
    """Return the share solved from 0, after checking every label."""
    problem = tanh_suite(gain, draws, seed=seed)
    found = solve(problem, solver, torch.zeros(draws, 50, dtype=DOUBLE))
    residual = relative_residual(problem, found.value)
    # The residual of a batch of another size may differ in the last digit.
    assert (residual[found.converged] <= rtol * (1 + 1e-9)).all()
    assert (residual[~found.converged] > rtol * (1 - 1e-9)).all()
    torch.testing.assert_close(found.residual, residual, rtol=1e-6, atol=1e-14)
    return float(found.converged.double().mean())


def ladder(rtol: float) -> Then:
    return Then(Anderson(rtol=rtol), Continuation(rtol=rtol), PseudoTransient(rtol=rtol))


@pytest.mark.parametrize(
    ("gain", "rtol"), [(0.5, 1e-4), (1.6, 1e-4), (0.5, 1e-6), (1.6, 1e-6), (2.0, 1e-6), (3.0, 1e-6)]
)
def test_escalation_solves_the_share_that_it_must(gain: float, rtol: float) -> None:
    assert rate(gain, ladder(rtol), rtol) >= LEAST[gain]


@pytest.mark.slow
@pytest.mark.parametrize("gain", LEAST)
def test_escalation_solves_that_share_of_other_draws_too(gain: float) -> None:
    shares = [rate(gain, ladder(1e-6), 1e-6, seed=seed) for seed in range(1, 5)]
    assert sum(shares) / 4 >= LEAST[gain] - 0.03  # one standard deviation of 160 draws


@pytest.mark.parametrize(
    ("solver", "gain", "least"),
    [
        (Anderson(rtol=1e-6), 0.5, 1.0),
        (Anderson(rtol=1e-6), 1.6, 0.5),
        (Continuation(rtol=1e-6), 0.5, 1.0),
        (Continuation(rtol=1e-6), 1.6, 0.95),
        (Continuation(rtol=1e-6), 2.0, 0.8),
        (PseudoTransient(rtol=1e-6), 0.5, 1.0),
        (PseudoTransient(rtol=1e-6), 1.6, 0.95),
        (PseudoTransient(rtol=1e-6), 2.0, 0.88),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Solver) else str(value),
)
def test_each_solver_does_its_share(solver: Solver, gain: float, least: float) -> None:
    """The published shares, less two standard deviations of 40 draws."""
    assert rate(gain, solver, 1e-6) >= least
