from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers import (
    BOSH3,
    DOPRI5,
    DOPRI8,
    EULER,
    HEUN,
    MIDPOINT,
    RK4,
    TSIT5,
    Equilibrium,
    Flow,
    Picard,
    Status,
    SteadyState,
    Tableau,
    solve,
)
from tests.problems import DOUBLE, linear, normal


@given(norm=st.floats(0.1, 0.9), seed=st.integers(0, 99))
@settings(max_examples=10)
def test_follows_the_exact_flow_of_a_linear_map(norm: float, seed: int) -> None:
    """z(t) = z* + e^{-(I - A) t} (z0 - z*)."""
    case = linear(2, 4, norm, seed)
    start = normal(seed + 7, 2, 4)
    accurate = Flow(error=1e-3, h=1e-2, max_step=0.1, rtol=1e-2, max_steps=400)
    found = solve(case.problem, accurate, start, record=True).check()
    path = found.trajectory
    assert path is not None and path.time is not None
    a = (case.problem.condition or ())[0]
    for k, steps in enumerate(found.steps.tolist()):
        rate = torch.eye(4, dtype=DOUBLE) - a[k]
        for row in range(0, steps + 1, 5):
            decay = torch.linalg.matrix_exp(-rate * path.time[row, k])
            exact = case.answer[k] + decay @ (start[k] - case.answer[k])
            # A third-order method with steps of at most 0.1 and ||I - A|| < 2: an error of
            # h^4 2^4 / 4! a step (that of e^{2 h}) makes 1e-3 of the way over t = 1 / h steps.
            assert (path.z[row, k] - exact).norm() <= 1e-3 * (start[k] - case.answer[k]).norm()


@pytest.mark.parametrize("norm", [0.5, 0.95])
def test_does_not_stall_at_the_tolerance_of_the_integrator(norm: float) -> None:
    """An adaptive solver used for this stops improving at its local tolerance, 1e-3 or so."""
    case = linear(4, 8, norm)
    found = solve(case.problem, Flow(rtol=1e-12), case.z0).check()
    error = (found.value - case.answer).norm(dim=1) / case.answer.norm(dim=1)
    # 1 / (1 - norm) = 20 times the tolerance at most.
    assert (error <= 20 * 1e-12 * 1.01 + 1e-13).all()
    loose = solve(case.problem, Flow(rtol=1e-12, error=1.0), case.z0).check()
    assert (loose.residual <= 1e-12).all()


def test_reaches_1e_10_in_about_63_steps() -> None:
    """The figure of a prototype: Heun with steps of at most 1 on an easy map."""
    case = linear(4, 8, 0.5)
    found = solve(case.problem, Flow(rtol=1e-10), case.z0).check()
    assert int(found.steps.max()) <= 70


def test_each_sample_has_its_own_step() -> None:
    """A stiff neighbour, slope -30, does not shorten the steps of an easy sample."""
    slope = torch.tensor([[0.5], [-30.0]], dtype=DOUBLE)
    stiff = Equilibrium(lambda z, s: s * z + 1, (slope,))
    found = solve(stiff, Flow(), torch.zeros(2, 1, dtype=DOUBLE)).check()
    alone = solve(
        Equilibrium(lambda z, s: s * z + 1, (slope[:1],)), Flow(), torch.zeros(1, 1).double()
    )
    assert found.steps[0] == alone.steps[0]
    torch.testing.assert_close(found.value[0], alone.value[0], rtol=1e-12, atol=0)


def test_picks_the_stable_root() -> None:
    """z = tanh(4 z): 0 is unstable under z' = f(z) - z, and the sign of the start decides."""
    start = torch.tensor([[0.01], [-0.01], [3.0]], dtype=DOUBLE)
    found = solve(Equilibrium(lambda z: torch.tanh(4 * z)), Flow(), start).check()
    assert found.value.sign().flatten().tolist() == [1, -1, 1]
    assert (found.value.abs() - 0.9993275).abs().max() < 1e-3


def test_finds_stable_equilibria_of_maps_that_expand() -> None:
    """Eigenvalues of J left of 1 suffice; Picard needs them in the unit disk."""
    a = torch.tensor([[-3.0, 4.0], [-4.0, -3.0]], dtype=DOUBLE)
    case = linear(2, a=a)
    assert not solve(case.problem, Picard(), case.z0).converged.any()
    found = solve(case.problem, Flow(rtol=1e-9), case.z0).check()
    torch.testing.assert_close(found.value, case.answer, rtol=0, atol=1e-7)


@pytest.mark.parametrize("tableau", [BOSH3, DOPRI5, TSIT5, DOPRI8, EULER, MIDPOINT, HEUN, RK4])
def test_every_method_rests_at_the_root_itself(tableau: Tableau) -> None:
    """One argument swaps the path and not the answer, down to any tolerance."""
    case = linear(4, 8, 0.9)
    flow = Flow(tableau, rtol=1e-11, h=0.5 if tableau.error else 1.0)
    found = solve(case.problem, flow, case.z0).check()
    error = (found.value - case.answer).norm(dim=1) / case.answer.norm(dim=1)
    assert (error <= 1e-11 / (1 - 0.9) * 1.01 + 1e-13).all()
    # f at the end of a step is the first stage of the next.
    assert found.evals.equal(1 + len(tableau.b) * found.steps)


@pytest.mark.parametrize("damping", [0.5, 1.0])
def test_eulers_flow_is_picards_iteration(damping: float) -> None:
    case = linear(4, 8, 0.8)
    flow = solve(case.problem, Flow(EULER, h=damping, rtol=1e-8), case.z0).check()
    plain = solve(case.problem, Picard(damping=damping, rtol=1e-8), case.z0).check()
    assert flow.steps.equal(plain.steps) and flow.evals.equal(plain.evals)
    torch.testing.assert_close(flow.value, plain.value, rtol=1e-12, atol=0)


def test_flow_that_ends_in_finite_time_has_a_step_too_small() -> None:
    """z' = z^2: 1 / (1 - t) from z = 1; from z = -1 it rests at 0."""
    start = torch.tensor([[1.0], [-1.0]], dtype=DOUBLE)
    found = solve(Equilibrium(lambda z: z + z * z), Flow(atol=1e-4), start)
    assert found.status.tolist() == [Status.STEP_TOO_SMALL, Status.CONVERGED]


def test_old_name_still_works_and_says_what_to_write() -> None:
    with pytest.warns(DeprecationWarning, match=r"SteadyState\(...\) is Flow\(...\) now"):
        old = SteadyState(0.2, max_step=0.5, rtol=1e-6)
        assert SteadyState() == Flow()
    assert old == Flow(error=0.2, max_step=0.5, rtol=1e-6)


def test_a_name_in_the_place_of_a_tableau_is_refused_with_advice() -> None:
    with pytest.raises(TypeError, match="such as BOSH3; got 'rk4'"):
        Flow("rk4")  # type: ignore[arg-type]
