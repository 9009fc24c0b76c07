from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from solvers import Broyden, Equilibrium, Picard, solve
from tests.problems import DOUBLE, linear, symmetric


@given(n=st.integers(1, 6), norm=st.floats(0.1, 0.9), seed=st.integers(0, 199))
def test_linear_map_of_dimension_n_takes_2n_steps(n: int, norm: float, seed: int) -> None:
    """D. M. Gay (1979), Some convergence properties of Broyden's method: at most 2 n steps."""
    case = linear(1, n, norm, seed)
    found = solve(case.problem, Broyden(rtol=1e-6), case.z0).check()
    assert int(found.steps) <= 2 * n


def test_satisfies_the_secant_equation() -> None:
    """H (F(z1) - F(z0)) = z1 - z0 after each update."""
    case = linear(3, 5, 0.8)
    solver = Broyden()
    state = solver.init(case.problem, case.z0)
    for _ in range(4):
        before = state
        state = solver.step(case.problem, state)
        dz, df = state.z - before.z, (state.fz - state.z) - (before.fz - before.z)
        overlap = torch.einsum("bmn,bn->bm", state.right, df)
        image = -df + torch.einsum("bmn,bm->bn", state.left, overlap)
        torch.testing.assert_close(image, dz, rtol=1e-9, atol=1e-12)


def test_memory_is_bounded_and_full_memory_starts_again() -> None:
    case = linear(2, a=symmetric(40, 0.95))
    small = Broyden(memory=4, rtol=1e-6, max_steps=500)
    state = small.init(case.problem, case.z0)
    for _ in range(13):
        state = small.step(case.problem, state)
        assert state.left.shape == state.right.shape == (2, 4, 40)
        assert state.count <= 4
    found = solve(case.problem, small, case.z0).check()
    torch.testing.assert_close(found.value, case.answer, rtol=0, atol=1e-3)
    plain = solve(case.problem, Picard(rtol=1e-6, max_steps=1000), case.z0)
    assert (found.evals < plain.evals).all()


def test_symmetric_map_of_radius_95_takes_a_quarter_of_plain_iteration() -> None:
    case = linear(3, a=symmetric(60, 0.95))
    found = solve(case.problem, Broyden(rtol=1e-8, memory=60), case.z0).check()
    plain = solve(case.problem, Picard(rtol=1e-8, max_steps=1000), case.z0).check()
    assert (4 * found.evals < plain.evals).all()


def test_step_of_no_length_leaves_the_inverse_alone() -> None:
    """z and F do not change where F = 0 in one sample of two: no division by zero."""
    problem = Equilibrium(lambda z, x: 0.5 * z + x, (torch.tensor([[0.0], [1.0]], dtype=DOUBLE),))
    found = solve(problem, Broyden(rtol=1e-12), torch.zeros(2, 1, dtype=DOUBLE)).check()
    torch.testing.assert_close(found.value, torch.tensor([[0.0], [2.0]], dtype=DOUBLE))
    flat = solve(Equilibrium(lambda z: z + 1), Broyden(max_steps=5), torch.zeros(1, 2))
    assert torch.isfinite(flat.value).all()  # dF = 0 in every step
