"""Natural continuation; paths with folds and other homotopies are in tests/homotopy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import Continuation, Equilibrium, NewtonKrylov, Picard, Status, solve
from solvers.homotopy import StepControl
from tests.problems import DOUBLE, contractions, cubic, linear, normal, tanh, tanh_fold

EXACT = Continuation(rtol=1e-12, corrector=NewtonKrylov(rtol=1e-12, max_steps=8))


@given(norm=st.floats(0.1, 0.95), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_path_of_a_linear_map_has_its_closed_form(norm: float, seed: int) -> None:
    """z(lam) = (I - lam A)^-1 ((1 - lam) a + lam x), from the anchor a = z0."""
    case, start = linear(2, 4, norm, seed), normal(seed + 9, 2, 4)
    found = solve(case.problem, EXACT, start, record=True).check()
    path = found.trajectory
    assert path is not None and path.time is not None
    a, x = case.problem.condition or ()
    eye = torch.eye(4, dtype=DOUBLE)
    for row in range(path.z.shape[0]):
        lam = path.time[row][:, None]
        exact = torch.linalg.solve(eye - lam[..., None] * a, (1 - lam) * start + lam * x)
        torch.testing.assert_close(path.z[row], exact, rtol=0, atol=1e-9)
    assert (path.time[-1] == 1).all() and (path.time.diff(dim=0) >= 0).all()


def test_unit_euler_step_along_the_path_is_a_picard_step() -> None:
    """dz/dlam = f(z0) - z0 at lam = 0: the tangent there leads to f(z0) at lam = 1."""
    problem, start = Equilibrium(tanh, (contractions(3, 5, 2.0, 0), normal(1, 3, 5))), None
    start = normal(2, 3, 5)
    lam = 1e-6
    small = replace(EXACT, control=StepControl(ds=lam, min_ds=lam), max_steps=1)
    beside = solve(problem, small, start).value
    euler = start + (beside - start) / lam
    picard = solve(problem, Picard(max_steps=1), start).value
    # The path curves by O(lam), and 1e-12 of the corrector is divided by lam.
    torch.testing.assert_close(euler, picard, rtol=0, atol=1e-4)


def test_no_step_of_the_path_is_longer_than_the_longest() -> None:
    case = linear(2, 4, 0.5, 0)
    short = Continuation(control=StepControl(ds=0.01, max_ds=0.08))
    path = solve(case.problem, short, normal(9, 2, 4), record=True).check().trajectory
    assert path is not None
    steps = path.time.diff(dim=0)
    assert 0.079 < float(steps.max()) <= 0.08 * (1 + 1e-6)


def test_a_recorded_path_counts_what_its_corrections_took() -> None:
    case = linear(2, 4, 0.9, 0)
    found = solve(case.problem, Continuation(), normal(9, 2, 4), record=True)
    assert found.trajectory is not None
    evals = found.trajectory.evals
    assert evals[-1] == found.evals.max() and bool((evals.diff() >= 0).all())


def test_every_sample_has_its_own_lambda_and_step() -> None:
    """The gap closes only where it is reached: an easy sample strides, one at a fold creeps."""
    z, lam = tanh_fold(4.0)
    assert abs(z - 0.8660254038) < 1e-10 and abs(lam + 2.1471437182) < 1e-10
    shift = torch.tensor([[0.0], [-2.2]], dtype=DOUBLE)
    problem = Equilibrium(lambda z, b: torch.tanh(4 * z + b), (shift,))
    start = torch.full((2, 1), 0.99, dtype=DOUBLE)
    found = solve(problem, Continuation(), start, record=True)
    alone = solve(Equilibrium(problem.map, (shift[:1],)), Continuation(), start[:1])
    assert found.steps[0] == alone.steps[0]
    assert found.status[0] == Status.CONVERGED
    torch.testing.assert_close(found.value[0], alone.value[0], rtol=1e-12, atol=0)


def test_fold_of_the_path_stops_it_with_a_small_step() -> None:
    """u^3 - 3u = -3 + 6 lam from u = -2.1038 folds at lam = 5/6, u = -1."""

    def embedded(u: torch.Tensor, lam: torch.Tensor) -> torch.Tensor:
        return cubic(u, -3 + 6 * lam)

    from solvers.homotopy import Custom

    problem = Equilibrium(lambda u: embedded(u, torch.ones_like(u)))
    start = torch.tensor([[-2.1038034]], dtype=DOUBLE)
    natural = Continuation(homotopy=Custom(lambda u, lam: embedded(u, lam)), rtol=1e-6)
    found = solve(problem, natural, start, record=True)
    path = found.trajectory
    assert path is not None and path.time is not None
    if found.converged:  # the corrector may have jumped to the other branch, over the fold
        assert abs(float(found.value) - 2.1038034) < 1e-4
    else:
        assert found.status.tolist() == [Status.STEP_TOO_SMALL]
        assert abs(float(path.time[-1]) - 5 / 6) < 1e-2


@pytest.mark.parametrize("shape", [(2, 6), (2, 1, 2, 3)])
def test_loose_path_and_tight_root(shape: tuple[int, ...]) -> None:
    """The path is tracked to 1e-3 and the root polished to rtol."""
    a, b = contractions(2, 6, 0.9, 0), normal(1, 2, 6)
    problem = Equilibrium(lambda z, a, b: tanh(z.flatten(1), a, b).view_as(z), (a, b))
    found = solve(problem, Continuation(rtol=1e-11), torch.zeros(shape, dtype=DOUBLE)).check()
    assert (found.residual <= 1e-11).all()
