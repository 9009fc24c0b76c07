from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from solvers import Anderson, Equilibrium, Picard, solve
from solvers.anderson import weights
from tests.problems import contractions, linear, normal, psd, symmetric, tanh_suite


@given(n=st.integers(1, 6), norm=st.floats(0.1, 0.9), seed=st.integers(0, 199))
def test_linear_map_of_dimension_n_takes_n_evaluations_and_two(
    n: int, norm: float, seed: int
) -> None:
    """With full memory Anderson is GMRES: exact when the Krylov space is full (Walker and Ni)."""
    case = linear(1, n, norm, seed)
    # The Gram matrix squares the condition number, so the last digits take further steps.
    full = Anderson(memory=n + 1, period=1, regularization=1e-13, rtol=1e-4)
    found = solve(case.problem, full, case.z0).check()
    assert int(found.evals) <= n + 2


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-4])
def test_symmetric_map_of_radius_95_takes_70_evaluations_at_any_scale(scale: float) -> None:
    """torchdeq needs 245, 327 and 346: its regularisation is absolute, 1e-4."""
    case = linear(3, a=symmetric(60, 0.95))
    a, x = case.problem.condition or ()
    found = solve(
        Equilibrium(case.problem.map, (a, scale * x)), Anderson(rtol=1e-8, max_steps=400), case.z0
    ).check()
    assert int(found.evals.max()) <= 70
    # 1 / (1 - .95) times the tolerance.
    error = (found.value / scale - case.answer).norm(dim=1) / case.answer.norm(dim=1)
    assert (error <= 20 * 1e-8 * 1.01).all()


@pytest.mark.parametrize(("radius", "most"), [(0.9, 20), (0.99, 20)])
def test_default_takes_at_most_20_evaluations_on_the_cells_of_the_benchmark(
    radius: float, most: int
) -> None:
    w = psd(256, radius).float()
    u, b = normal(1, 256, 256).float() / 16, normal(2, 256).float() / 16
    x = normal(3, 16, 256).float()
    problem = Equilibrium(lambda z, x: torch.tanh(z @ w + x @ u + b), (x,))
    found = solve(problem, Anderson(), torch.zeros(16, 256)).check()
    assert int(found.evals.max()) <= most


def test_it_is_faster_than_plain_iteration_where_that_is_slow() -> None:
    case = linear(2, a=psd(30, 0.99))
    anderson = solve(case.problem, Anderson(), case.z0).check()
    picard = solve(case.problem, Picard(max_steps=1000), case.z0).check()
    assert (5 * anderson.evals < picard.evals).all()


def test_restart_lets_a_sample_go_on_after_its_residual_grew() -> None:
    """Where f is expansive far out and contracts near the root, early steps mislead."""
    problem = tanh_suite(1.3, draws=30, n=30)
    start = 3 * normal(5, 30, 30)
    with_restart = solve(problem, Anderson(), start).converged.sum()
    without = solve(problem, Anderson(growth=1e12), start).converged.sum()
    assert with_restart >= without


def test_memory_of_one_is_plain_iteration() -> None:
    case = linear(2, norm=0.7)
    one = solve(case.problem, Anderson(memory=1, period=1), case.z0)
    plain = solve(case.problem, Picard(), case.z0)
    assert one.evals.equal(plain.evals)
    torch.testing.assert_close(one.value, plain.value, rtol=1e-12, atol=1e-12)


def test_damping_mixes_residuals_in() -> None:
    case = linear(3, norm=0.8)
    found = solve(case.problem, Anderson(damping=0.5, rtol=1e-9, max_steps=300), case.z0).check()
    torch.testing.assert_close(found.value, case.answer, rtol=0, atol=1e-7)


def test_state_of_one_number_is_no_special_case() -> None:
    """With n = 1 the Gram matrix of two residuals is singular."""
    problem = Equilibrium(lambda z: torch.cos(z))
    found = solve(problem, Anderson(rtol=1e-12), torch.zeros(3, 1, dtype=torch.float64)).check()
    # The Dottie number, OEIS A003957.
    assert (found.value - 0.7390851332151607).abs().max() < 1e-11


def test_equal_residuals_do_not_break_the_small_system() -> None:
    """A step that changes nothing makes the Gram matrix exactly singular."""
    flat = Equilibrium(lambda z, x: x + 0 * z, (contractions(1, 4, 1.0, 0)[0],))
    found = solve(flat, Anderson(rtol=1e-15, max_steps=5), torch.zeros(4, 4, dtype=torch.float64))
    assert found.converged.all()


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float64, 1e-25), (torch.float32, 1e-15)])
def test_scale_changes_nothing_far_below_one(dtype: torch.dtype, scale: float) -> None:
    """Squares of residuals down to the smallest normal number: 1e-38 in float32."""
    a, x = contractions(3, 8, 0.9, 5).to(dtype), normal(6, 3, 8, dtype=dtype)

    def scaled(s: float) -> Equilibrium:
        return Equilibrium(lambda z, a, x: (a @ z[..., None])[..., 0] + s * x, (a, x))

    z0 = torch.zeros_like(x)
    one, other = (solve(scaled(s), Anderson(rtol=1e-3), z0).check() for s in (1.0, scale))
    assert one.evals.equal(other.evals)


@pytest.mark.parametrize("steps", [0, 2, 5, 8])
def test_samples_that_are_left_take_along_what_has_been_written_of_their_history(
    steps: int,
) -> None:
    case, solver = linear(4, 6, 0.9, 3), Anderson(memory=6)
    index = torch.tensor([3, 1])
    with torch.no_grad():
        state = solver.init(case.problem, case.z0)
        for _ in range(steps):
            state = solver.step(case.problem, state)
        used = min(state.count, 6)
        assert used == min(steps + 1, 6)
        left = state.rows(index)
        for whole, part in ((state.images, left.images), (state.gaps, left.gaps)):
            assert part.shape == (6, 2, 6)
            assert torch.equal(part[:used], whole[:used, index])
        assert torch.equal(left.z, state.z[index]) and left.count == state.count
    watched = state.rows(index)  # autograd allows no writing in place
    assert torch.equal(watched.gaps[:used], left.gaps[:used])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [1e-3, 1.0, 1e3, 1e12])
def test_a_slot_that_is_left_out_changes_no_other_weight(dtype: torch.dtype, share: float) -> None:
    """Neither by its size, nor by its products with the others, nor where two of these are near."""
    kept = 1e-8 * normal(0, 4, 3, 10, dtype=dtype)
    kept[:, 1] = -kept[:, 0]
    gone = share * 1e-8 * normal(1, 4, 2, 10, dtype=dtype)
    void = torch.tensor([False, True, False, True, False]).expand(4, 5)
    gaps = torch.stack([kept[:, 0], gone[:, 0], kept[:, 1], gone[:, 1], kept[:, 2]], 1)
    found, wanted = weights(gaps, 1e-8, void), weights(kept, 1e-8)
    torch.testing.assert_close(found[:, 0, [0, 2, 4]], wanted[:, 0], rtol=1e-3, atol=1e-4)
    assert (found[:, 0, [1, 3]] == 0).all()
    torch.testing.assert_close(found.sum(2), torch.ones(4, 1, dtype=dtype))


def test_a_sample_that_has_forgotten_mixes_before_it_forgets_again() -> None:
    """Where f expands by half each Picard step leads away: to forget at each would be to take them
    alone, and solved 31% of these."""
    a = normal(3, 64, 8, 8)
    a = a * (1.5 / torch.linalg.eigvals(a).abs().amax(1))[:, None, None]
    problem = Equilibrium(lambda z, a, x: (a @ z[..., None])[..., 0] + x, (a, normal(4, 64, 8)))
    found = solve(problem, Anderson(rtol=1e-10), torch.zeros(64, 8, dtype=torch.float64))
    assert found.converged.double().mean() > 0.5
