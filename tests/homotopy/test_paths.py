"""Solvers that follow a path: what they reach, what they report, and their common limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from experiments import classical as problems
from experiments.reference_tracker import track
from solvers import (
    GMRES,
    Anderson,
    ArcLength,
    Continuation,
    Davidenko,
    Dense,
    Equilibrium,
    NewtonKrylov,
    Robust,
    Solution,
    Solver,
    Status,
    Then,
    solve,
    solved_by,
)
from solvers.homotopy import (
    Constant,
    Convex,
    Custom,
    Hermite,
    Homotopy,
    Input,
    Newton,
    Secant,
    StepControl,
    Tangent,
)
from solvers.homotopy.predictor import Knot
from tests.homotopy.suite import cell, tanh_suite


def verified(problem: Equilibrium, found: Solution[Tensor]) -> Tensor:
    fz = problem(found.value)
    return (fz - found.value).norm(dim=1) / fz.norm(dim=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [0.5, 2.0, 3.0])
def test_arclength_solves_what_fixed_points_do_not(gain: float, dtype: torch.dtype) -> None:
    problem, z0 = tanh_suite(gain, dtype=dtype)
    rtol = 1e-5 if dtype == torch.float32 else 1e-9
    found = solve(problem, ArcLength(rtol=rtol), z0)
    assert found.converged.all()
    assert (verified(problem, found) <= rtol * 1.01).all()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [0.5, 1.6, 2.0, 3.0])
def test_arclength_and_robust_solve_every_draw(gain: float, dtype: torch.dtype) -> None:
    problem, z0 = tanh_suite(gain, draws=200, dtype=dtype)
    rtol = 1e-5 if dtype == torch.float32 else 1e-6
    for solver in (ArcLength(rtol=rtol), Robust(rtol=rtol)):
        found = solve(problem, solver, z0)
        assert found.converged.all()
        assert (verified(problem, found) <= 1.01 * rtol).all()


def test_arclength_follows_the_path_of_a_textbook_tracker() -> None:
    """Both end at the same root where the path leads to one; seen at gain 2, with folds."""
    problem, z0 = tanh_suite(2.0, n=30, draws=12)
    assert problem.condition is not None
    w, b = (x.numpy() for x in problem.condition)
    found = solve(problem, ArcLength(rtol=1e-10), z0).check()
    for k in range(len(z0)):
        path = track(w[k], b[k])
        assert path.root is not None
        assert torch.allclose(found.value[k], torch.from_numpy(path.root), atol=1e-7)


@pytest.mark.parametrize("closed", [False, True], ids=["condition", "closure"])
def test_jacobians_of_a_large_state_are_formed_for_the_samples_that_need_them(closed: bool) -> None:
    """An easy and a hard path of 80 unknowns in a batch: Krylov spaces for the one alone."""
    (easy, z0), (hard, _) = tanh_suite(0.5, n=80, draws=1), tanh_suite(3.0, n=80, draws=1)
    assert easy.condition is not None and hard.condition is not None
    both = Equilibrium(
        cell, tuple(torch.cat(x) for x in zip(easy.condition, hard.condition, strict=True))
    )
    given = Equilibrium(lambda z: both(z)) if closed else both
    found = solve(given, ArcLength(rtol=1e-9), z0.expand(2, -1).contiguous()).check()
    alone = solve(easy, ArcLength(rtol=1e-9), z0).check()
    assert torch.allclose(found.value[:1], alone.value, atol=1e-8)
    if not closed:
        assert found.steps[0] == alone.steps[0]
        assert found.evals[0] < 2 * 80  # fewer than two Jacobians
    assert found.evals[1] > 80 * 5


def test_digits_of_the_root_are_bought_by_chords_and_not_by_jacobians() -> None:
    problem, z0 = tanh_suite(2.0, n=40, draws=8)
    rough, fine = (solve(problem, ArcLength(rtol=rtol), z0).check() for rtol in (1e-4, 1e-12))
    # A Jacobian is 40 evaluations, a chord is one and divides the residual by 3 at least.
    assert (fine.evals - rough.evals <= 17).all()


def test_no_jacobian_is_formed_where_none_may_be() -> None:
    problem, z0 = tanh_suite(0.5, n=40, draws=3)
    free = solve(problem, ArcLength(linear=GMRES(100)), z0).check()
    formed = solve(problem, ArcLength(), z0).check()
    assert (free.evals < formed.evals).all()
    assert torch.allclose(free.value, formed.value, atol=1e-3)


@given(power=st.integers(0, 3), gap=st.floats(0.1, 2.0), share=st.floats(0.1, 1.9))
def test_hermite_extrapolates_a_cubic_and_a_tangent_a_line(
    power: int, gap: float, share: float
) -> None:
    """Of y(s) = (s + 1)^power with s = -gap and 0: Hermite's error is of fourth order."""
    s = torch.tensor([[-gap], [0.0]], dtype=torch.float64)
    last, here = (
        Knot((at + 1) ** power, power * (at + 1) ** max(power - 1, 0)) for at in s[:, None]
    )
    ahead = torch.tensor([share * gap], dtype=torch.float64)
    exact = (ahead[:, None] + 1) ** power
    cubic = Hermite()(last, here, -s[0], ahead)
    torch.testing.assert_close(cubic, exact, rtol=1e-9, atol=1e-9)  # cancels up to 1e3 roundings
    if power < 2:
        torch.testing.assert_close(Tangent()(last, here, -s[0], ahead), exact)


@pytest.mark.parametrize("predictor", [Constant(), Secant(), Tangent(), Hermite()])
@pytest.mark.parametrize("path", [Continuation, ArcLength])
def test_every_predictor_leads_to_the_root(path: Any, predictor: Any) -> None:
    problem, z0 = tanh_suite(0.9, n=8, draws=4)
    found = solve(problem, path(predictor=predictor, rtol=1e-8), z0)
    assert found.converged.all()


@pytest.mark.parametrize("path", [Continuation, ArcLength, Davidenko])
@pytest.mark.parametrize("condition", [True, False])
def test_every_homotopy_leads_to_the_root(path: Any, condition: bool) -> None:
    problem, z0 = tanh_suite(0.9, n=8, draws=4)
    assert problem.condition is not None
    w, b = problem.condition
    root = solve(problem, NewtonKrylov(rtol=1e-12), z0).value
    maps: list[Homotopy] = [
        Newton(),
        Convex(lambda z, *x: 0.5 * z),
        Custom(lambda z, lam, *x: torch.tanh(lam * (z[:, None] @ w.mT)[:, 0] + lam * b)),
    ]
    if condition:
        maps.append(Input((w[:1], torch.zeros_like(b))))
    else:
        problem = Equilibrium(lambda z: cell(z, w, b))
    for homotopy in maps:
        if condition and isinstance(homotopy, Custom):
            homotopy = Custom(lambda z, lam, w, b: cell(z, lam[..., None] * w, lam * b))
        if path is Davidenko and isinstance(homotopy, Input):
            continue  # starts at a root of h(z, 0); 0 is none of this reference's
        found = solve(problem, path(homotopy=homotopy, rtol=1e-8), z0)
        assert found.converged.all(), homotopy
        assert torch.allclose(found.value, root, atol=1e-6)


def test_input_homotopy_goes_on_from_a_known_equilibrium() -> None:
    problem, z0 = tanh_suite(1.2, n=20, draws=6)
    assert problem.condition is not None
    w, b = problem.condition
    before = solve(Equilibrium(cell, (w, b + 0.05)), ArcLength(rtol=1e-9), z0).check()
    found = solve(problem, ArcLength(homotopy=Input((w, b + 0.05)), rtol=1e-9), before)
    assert found.converged.all()
    fresh = solve(problem, ArcLength(rtol=1e-9), z0)
    assert found.evals.sum() < fresh.evals.sum()


def test_input_homotopy_refuses_a_reference_that_does_not_fit() -> None:
    problem, z0 = tanh_suite(0.5, n=4, draws=3)
    w, b = problem.inputs
    for wrong in ((b,), (w, b[:2]), (w, b[:, :3]), (w[:, :3], b)):
        with pytest.raises(ValueError, match="one reference for each tensor"):
            solve(problem, ArcLength(homotopy=Input(wrong)), z0)


def test_arclength_passes_two_folds() -> None:
    """x^3 - 3x = -3 + 6 lambda from x = -2.1038: lambda turns back at 5/6 and at 1/6."""
    family = problems.cubic()
    problem = Equilibrium(lambda z: family.map(z, torch.ones_like(z)))
    z0 = torch.full((1, 1), -2.1038, dtype=torch.float64)
    found = solve(problem, ArcLength(homotopy=Custom(family.map), rtol=1e-12), z0)
    assert found.converged.all()
    assert abs(found.value.item() - 2.1038034027) < 1e-9  # the only root of x^3 - 3x = 3


def test_a_path_to_infinity_is_lost_and_says_how_far_it_is_from_a_root() -> None:
    problem, z0 = problems.parabola(), torch.full((1, 1), -2.0, dtype=torch.float64)
    found = solve(problem, ArcLength(), z0)
    assert found.status.tolist() == [Status.LOST_PATH]
    assert torch.allclose(found.residual, verified(problem, found))
    natural = solve(problem, Continuation(), z0)
    assert natural.status.tolist() == [Status.STEP_TOO_SMALL]
    assert torch.allclose(natural.residual, verified(problem, natural))
    assert solve(problem, ArcLength(homotopy=Newton()), z0).converged.all()


def test_a_path_can_start_at_a_fold() -> None:
    """lambda = z^2 at z = 0, where the Jacobian is 0 and the tangent orthogonal to lambda."""
    problem = Equilibrium(lambda z: z + 1 - z * z)
    fold = Custom(lambda z, lam: z + lam - z * z)
    z0 = torch.zeros(1, 1, dtype=torch.float64)
    found = solve(problem, ArcLength(homotopy=fold, rtol=1e-10), z0)
    assert found.converged.all()
    assert abs(abs(found.value.item()) - 1) < 1e-9


def test_an_isolated_root_is_a_loss_of_rank() -> None:
    """z^2 + lambda^2 = 0 has one root, where G' = 0: there is no path to follow."""
    problem = Equilibrium(lambda z: z + z * z + 1)
    point = Custom(lambda z, lam: z + z * z + lam * lam)
    z0 = torch.zeros(1, 1, dtype=torch.float64)
    found = solve(problem, ArcLength(homotopy=point), z0)
    assert found.status.tolist() == [Status.RANK_LOSS]


def test_too_little_krylov_space_is_a_loss_of_rank_or_a_small_step() -> None:
    problem, z0 = tanh_suite(6.0, draws=4)
    corrector = NewtonKrylov(rtol=1e-3, max_steps=4, halvings=0, linear=GMRES(2))
    found = solve(problem, ArcLength(linear=GMRES(1), corrector=corrector), z0)
    assert set(found.status.tolist()) <= {Status.RANK_LOSS, Status.STEP_TOO_SMALL}


@pytest.mark.parametrize("path", [Continuation, ArcLength])
def test_a_homotopy_without_a_start_is_lost(path: Any) -> None:
    problem = Equilibrium(lambda z: 0.5 * z + 1)
    rootless = Convex(lambda z: z + 1 + z * z)
    found = solve(problem, path(homotopy=rootless), torch.zeros(1, 1))
    assert found.status.tolist() == [Status.LOST_PATH]


@pytest.mark.parametrize(
    "solver", [ArcLength(rtol=1e-5), Continuation(rtol=1e-5), Robust(rtol=1e-5)]
)
def test_sample_does_not_see_its_batch_mates(solver: Solver[Equilibrium, Any]) -> None:
    # Where a path jumps, rounding may decide to which root; at this gain there is one.
    problem, z0 = tanh_suite(0.9, n=20, draws=12, dtype=torch.float32)
    together = solve(problem, solver, z0)
    for k in range(12):
        alone = solve(problem.rows(torch.tensor([k])), solver, z0[:1])
        assert alone.status == together.status[k]
        # float32: two roots polished to 1e-5 are this close where the condition is moderate
        assert torch.allclose(alone.value[0], together.value[k], atol=3e-4)


def test_a_solution_can_start_the_next_path() -> None:
    problem, z0 = tanh_suite(1.6, n=10, draws=3)
    found = solve(problem, ArcLength(), z0)
    again = solve(problem, ArcLength(), found)
    assert again.converged.all()
    assert (again.steps == 0).all()


def test_trajectory_records_lambda() -> None:
    problem, z0 = tanh_suite(0.5, n=10, draws=3)
    found = solve(problem, ArcLength(), z0, record=True)
    assert found.trajectory is not None and found.trajectory.time is not None
    assert (found.trajectory.time[0] == 0).all()
    assert (found.trajectory.time[-1] == 1).all()


def test_images_can_be_followed_too() -> None:
    weight = 0.1 * torch.randn(4, 4, 3, 3)
    problem = Equilibrium(
        lambda z, x: torch.tanh(torch.conv2d(z, weight, padding=1) + x),
        (torch.randn(2, 4, 6, 6),),
    )
    found = solve(problem, ArcLength(), torch.zeros(2, 4, 6, 6))
    assert found.converged.all()


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_davidenko_reaches_the_root(method: str) -> None:
    problem, z0 = tanh_suite(1.0, n=12, draws=4)
    found = solve(problem, Davidenko(method=method, rtol=1e-9), z0)
    assert found.converged.all()


def test_robust_solves_all_and_says_who_did() -> None:
    problem, z0 = tanh_suite(2.0, n=30, draws=16)
    robust = Robust(rtol=1e-6)
    found = solve(problem, robust, z0)
    assert found.converged.all()
    counts = solved_by(robust, found)
    rungs = ["Anderson", "Continuation", "PseudoTransient", "ArcLength", "NewtonKrylov"]
    assert list(counts) == rungs
    assert sum(counts.values()) == 16
    assert counts["Anderson"] < 16
    assert f"Anderson solved {counts['Anderson']}" in robust.report(found)


def test_robust_costs_an_easy_batch_what_anderson_does() -> None:
    problem, z0 = tanh_suite(0.5, n=30, draws=8)
    assert torch.equal(solve(problem, Robust(), z0).evals, solve(problem, Anderson(), z0).evals)


def test_solved_by_needs_a_ladder() -> None:
    problem, z0 = tanh_suite(0.5, n=4, draws=2)
    found = solve(problem, Anderson(), z0)
    with pytest.raises(TypeError, match="Then or a Robust"):
        solved_by(Anderson(), found)
    ladder = Then(Anderson(), Continuation())
    assert solved_by(ladder, solve(problem, ladder, z0)) == {"Anderson": 2, "Continuation": 0}


@pytest.mark.parametrize(
    "bad", [{"ds": 0.0}, {"ds": 2.0}, {"patience": 0}, {"turn": 2.0}, {"min_ds": 0.5}]
)
def test_step_control_refuses_what_makes_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="StepControl needs"):
        StepControl(**bad)


@pytest.mark.parametrize("bad", [{"theta": 1.0}, {"bound": 0.5}])
def test_arclength_refuses_what_makes_no_sense(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="ArcLength needs"):
        ArcLength(**bad)


@pytest.mark.parametrize("wrong", [None, NewtonKrylov])
def test_corrector_of_a_path_is_an_object(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"Chord\(\) or a solver"):
        ArcLength(corrector=wrong)


def test_jacobians_may_be_formed_from_the_start_for_states_of_any_size() -> None:
    problem, z0 = tanh_suite(0.5, n=80, draws=3)
    late = solve(problem, ArcLength(rtol=1e-9), z0).check()
    formed = solve(problem, ArcLength(rtol=1e-9, linear=Dense()), z0).check()
    assert (formed.evals > 2 * 80).all() and (late.evals < formed.evals).all()
    assert torch.allclose(late.value, formed.value, atol=1e-8)
