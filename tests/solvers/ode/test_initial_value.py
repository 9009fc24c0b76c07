from __future__ import annotations

import math
import warnings

import pytest
import torch
import torchdiffeq
from torch import Tensor
from torchdiffeq._impl.odeint import SOLVERS

from solvers import ODE, Adjoint, InitialValue, Status, Unroll, solve
from solvers.ode.initial_value import ADAPTIVE, GRID, METHODS
from tests.problems import DOUBLE, FLOWS, exponential

KINDS = ["dopri5", "rk4", "implicit_adams", "scipy_solver"]
"""One method of each kind that is driven in its own way: torchdiffeq tests the others."""


def accurate(method: str) -> ODE:
    """Return settings with which the method should be right to 1e-3 and better."""
    if method in ADAPTIVE or method == "scipy_solver":
        rtol = 1e-5 if method == "adaptive_heun" else 1e-7  # of second order: steps are short
        return ODE(method, rtol=rtol, atol=rtol / 100)
    return ODE(method, step_size=1e-3 if method == "euler" else 1e-2)


def test_methods_are_those_of_torchdiffeq() -> None:
    """An update of torchdiffeq that adds or drops one shows here."""
    assert set(METHODS) == set(SOLVERS)
    assert set(ADAPTIVE) | set(GRID) | {"scipy_solver"} == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_integrates_there_and_back(method: str) -> None:
    known = FLOWS["sine"]()
    for t0, t1 in ((1.0, 2.0), (2.0, 1.0)):
        problem, start = known.problem(t0, t1)
        found = solve(problem, accurate(method), start).check()
        exact = known.exact(t1)
        error = (found.value - exact).abs().max() / exact.abs().max()
        # torchdiffeq's own tests allow 3e-4 to 4e-3. Here 1e-2 to the order, and some.
        assert error < {"euler": 3e-3, "midpoint": 1e-3, "heun2": 1e-3}.get(method, 1e-4)
        assert found.residual.eq(0).all()


@pytest.mark.parametrize(("method", "order"), [("explicit_adams", 3), ("implicit_adams", 4)])
def test_multistep_methods_do_not_diverge_as_the_step_shrinks(method: str, order: int) -> None:
    """At torchdiffeq's default order of 12 explicit_adams ends at 1e3, and at 1e9 with dt / 4."""
    flow = exponential(-1.0)
    problem, start = flow.problem(0, 2)
    error = [
        float((solve(problem, ODE(method, step_size=dt), start).value - flow.exact(2)).norm())
        for dt in (0.1, 0.05, 0.025)
    ]
    # The first steps are Runge-Kutta's, so the order is only nearly that of the method.
    assert error[1] < error[0] / 2 ** (order - 0.3) and error[2] < error[1] / 2 ** (order - 0.3)


@pytest.mark.parametrize("method", ["dopri5", "dopri8"])
def test_tolerance_holds_for_every_sample(method: str) -> None:
    """torchdiffeq's own error norm is over the batch: a thousand easy samples hide a hard one."""
    rate = torch.zeros(200, 1, dtype=DOUBLE)
    rate[17] = -20.0
    problem = InitialValue(lambda t, z, r: r * z + torch.cos(7 * t) * r, condition=(rate,))
    start = torch.ones(200, 2, dtype=DOUBLE)
    loose = solve(problem, ODE(method, rtol=1e-4, atol=1e-4), start).check().value[17]
    alone = InitialValue(problem.field, condition=(rate[17:18],))
    tight = solve(alone, ODE(method, rtol=1e-10, atol=1e-10), start[:1]).value[0]
    # Local errors of 1e-4 that decay at the rate -20.
    assert (loose - tight).abs().max() < 3e-4
    hidden = torchdiffeq.odeint(
        lambda t, z: problem(t, z), start, torch.tensor([0.0, 1.0]).double(), method=method,
        rtol=1e-4, atol=1e-4,
    )[-1, 17]  # fmt: skip
    assert (loose - tight).abs().max() < (hidden - tight).abs().max()


def blowing_up(rate: Tensor) -> InitialValue:
    """z' = rate z^2, z(0) = 1: z = 1 / (1 - rate t), which ends at t = 1 / rate."""
    return InitialValue(lambda t, z, r: r * z * z, condition=(rate[:, None],))


@pytest.mark.parametrize("method", ["dopri5", "adaptive_heun", "rk4", "euler"])
def test_one_exploding_sample_does_not_take_its_mates_along(method: str) -> None:
    rate = torch.tensor([0.5, 10.0, -1.0, 0.1], dtype=DOUBLE)
    settings = ODE(method, rtol=1e-5, atol=1e-5, step_size=1e-3, max_steps=1000)
    found = solve(blowing_up(rate), settings, torch.ones(4, 1, dtype=DOUBLE))
    if method in ADAPTIVE:
        assert found.status[1] in (Status.STEP_TOO_SMALL, Status.MAX_STEPS, Status.NONFINITE)
    else:
        assert found.status[1] == Status.NONFINITE
    good = torch.tensor([0, 2, 3])
    assert (found.status[good] == Status.CONVERGED).all()
    assert found.residual[1] == float("inf")
    assert torch.isfinite(found.value).all()
    exact = 1 / (1 - rate[good])
    # Euler's error is of the size of its step, 1e-3.
    torch.testing.assert_close(found.value[good, 0], exact, rtol=2e-3, atol=0)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_sample_that_is_no_number_does_not_take_its_mates_along(method: str) -> None:
    rate = torch.tensor([0.5, float("nan"), -1.0], dtype=DOUBLE)
    found = solve(blowing_up(rate), ODE(method), torch.ones(3, 1, dtype=DOUBLE))
    assert found.status[[0, 2]].tolist() == [Status.CONVERGED] * 2
    assert found.status[1] != Status.CONVERGED
    for k in (0, 2):
        alone = solve(blowing_up(rate[k : k + 1]), ODE(method), torch.ones(1, 1).double()).value[0]
        # The steps are shared, so the answers differ by the tolerance, 1e-3.
        torch.testing.assert_close(found.value[k], alone, rtol=1e-3, atol=1e-3)
    assert found.value[1] == 1  # its start


@pytest.mark.parametrize("method", ["dopri5", "bosh3", "adaptive_heun", "rk4"])
@pytest.mark.parametrize("lasts", [0.0, 0.3])
def test_field_that_is_not_a_number_ends_nonfinite(method: str, lasts: float) -> None:
    """z' = sqrt(lasts - t): not a step too small, whatever torchdiffeq says."""
    ends = torch.tensor([[lasts], [2.0]], dtype=DOUBLE)
    flow = InitialValue(lambda t, z, end: torch.sqrt(end - t) + 0 * z - 1, condition=(ends,))
    found = solve(flow, ODE(method), torch.ones(2, 1, dtype=DOUBLE))
    assert found.status.tolist() == [Status.NONFINITE, Status.CONVERGED]
    assert found.value[0] == 1


def test_failure_is_a_status_and_no_assertion_of_torchdiffeq() -> None:
    rate = torch.full((2,), 10.0, dtype=DOUBLE)
    found = solve(blowing_up(rate), ODE(rtol=1e-6), torch.ones(2, 1, dtype=DOUBLE))
    assert not found.converged.any()
    few = solve(
        blowing_up(rate / 20), ODE(rtol=1e-9, atol=1e-9, max_steps=2), torch.ones(2, 1).double()
    )
    assert (few.status == Status.MAX_STEPS).all()


@pytest.mark.parametrize("method", KINDS)
def test_recording_observes_and_alters_nothing(method: str) -> None:
    """To the bit, and the states that it keeps lie on the solution."""
    flow = exponential()
    problem, start = flow.problem(1, 3)
    settings = accurate(method)
    plain, found = (solve(problem, settings, start, record=keep) for keep in (False, True))
    assert plain.trajectory is None
    assert found.value.equal(plain.value) and found.status.equal(plain.status)
    assert found.evals.equal(plain.evals) and found.steps.equal(plain.steps)
    path = found.trajectory
    assert path is not None and path.time is not None and len(path.z) > 2
    assert path.z[0].equal(start) and path.z[-1].equal(found.value)
    assert path.time.dtype == DOUBLE and path.time.isfinite().all()
    assert path.time[0].eq(1).all() and path.time[-1].eq(3).all()
    assert path.evals[0] == 0 and path.evals[-1] == found.evals[0]
    assert (path.time.diff(dim=0) > 0).all() and (path.evals.diff() >= 0).all()
    exact = torch.stack([flow.exact(float(t)) for t in path.time[:, 0]])
    error = (path.z - exact).abs().max()
    assert error < {"euler": 3e-3, "midpoint": 1e-3, "heun2": 1e-3}.get(method, 1e-4)  # as above


def test_trajectory_holds_the_steps_of_the_method() -> None:
    found = solve(
        InitialValue(lambda t, z: -z), ODE("rk4", step_size=0.3), torch.ones(2, 1), record=True
    )
    assert found.trajectory is not None and found.trajectory.time is not None
    times = torch.tensor([0.0, 0.3, 0.6, 0.9, 1.0], dtype=DOUBLE)
    torch.testing.assert_close(found.trajectory.time[:, 0], times, rtol=1e-15, atol=0)
    assert found.trajectory.evals.tolist() == [0, 4, 8, 12, 16]


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_trajectory_of_a_batch_with_a_failed_sample_ends_in_the_value(method: str) -> None:
    rate = torch.tensor([0.5, 10.0, -1.0], dtype=DOUBLE)
    settings = ODE(method, rtol=1e-5, step_size=1e-2, max_steps=1000)
    start = torch.ones(3, 1, dtype=DOUBLE)
    plain, found = (solve(blowing_up(rate), settings, start, record=keep) for keep in (False, True))
    assert found.value.equal(plain.value) and found.status.equal(plain.status)
    path = found.trajectory
    assert path is not None and path.z[-1].equal(found.value)
    assert path.residual[-1].equal(found.residual) and path.evals[-1] == found.evals[0]


def test_recorded_path_is_differentiable_under_unroll() -> None:
    start = torch.ones(1, 1, dtype=DOUBLE, requires_grad=True)
    found = Unroll().apply(InitialValue(lambda t, z: -z), ODE("rk4"), start, record=True)
    assert found.trajectory is not None
    (got,) = torch.autograd.grad(found.trajectory.z[5].sum(), start)
    assert abs(float(got) - math.exp(-0.5)) < 1e-6  # rk4 at steps of 0.1


CLOCKS = {
    "hundredth": (59000.3, 59000.31),
    "backwards": (59000.31, 59000.3),
    "unix": (1.7e9, 1.7e9 + 1),
    "julian": (2460000.5, 2460000.75),
    "2^24 + 1": (16777217.0, 16777219.0),
    "before": (-16777219.0, -16777217.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("method", KINDS)
def test_answer_depends_on_the_length_of_the_interval_and_not_on_the_clock(
    method: str, dtype: torch.dtype
) -> None:
    """To the bit, also where single precision does not tell t0 from t1."""
    start = torch.ones(2, 1, dtype=dtype)
    for t0, t1 in CLOCKS.values():
        settings = ODE(method, step_size=abs(t1 - t0) / 8)
        late, early = (
            solve(InitialValue(lambda t, z: -z, *span), settings, start).check()
            for span in ((t0, t1), (0, t1 - t0))
        )
        assert late.value.equal(early.value) and late.evals.equal(early.evals)


@pytest.mark.parametrize("rule", [Unroll(), Adjoint()])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_gradient_does_not_depend_on_the_clock_either(rule: Unroll | Adjoint, method: str) -> None:
    start = torch.ones(1, 1, requires_grad=True)
    found = rule.apply(InitialValue(lambda t, z: -z, 59000.3, 59000.31), ODE(method), start)
    (got,) = torch.autograd.grad(found.value.sum(), start)
    exact = math.exp(59000.3 - 59000.31)  # both z1 and dz1/dz0: .99005
    # Some single-precision ulps of 6e-8; the method's own error is 0.01^5. At the end of a step, to
    # which Adjoint integrates, torchdiffeq interpolates by differences of 16 z: 16 of them.
    assert abs(float(found.value.detach()) - exact) < 5e-7 and abs(float(got) - exact) < 5e-6


def test_field_receives_the_time_of_the_clock_in_the_dtype_of_the_state() -> None:
    for dtype in (torch.float32, DOUBLE):
        seen: list[Tensor] = []

        def field(t: Tensor, z: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(t)
            return -z

        solve(InitialValue(field, 16777217.0, 16777218.0), ODE("euler"), torch.ones(1, 1).to(dtype))
        exact = [16777217.0 + k / 10 for k in range(10)]
        assert [t.dtype for t in seen] == [dtype] * 10 and all(t.dim() == 0 for t in seen)
        # Steps are summed in double precision, and rounded once.
        wanted = torch.tensor(exact, dtype=DOUBLE).to(dtype)
        torch.testing.assert_close(torch.stack(seen), wanted, rtol=1e-15, atol=0)


@pytest.mark.parametrize("t1", [1.1, 0.7, 0.3, 59000.31 - 59000.3])
def test_rounding_of_the_interval_makes_no_step_of_its_own(t1: float) -> None:
    """1.1 / 0.1 is above 11 in floating point."""
    size = 0.1 if t1 > 0.1 else 1e-3
    found = solve(
        InitialValue(lambda t, z: -z, 0, t1), ODE("euler", step_size=size), torch.ones(1, 1)
    )
    assert int(found.evals) == round(t1 / size)


def test_integrator_of_scipy_ends_and_that_is_no_success() -> None:
    rate = torch.tensor([0.5, 10.0, -1.0], dtype=DOUBLE)
    settings = ODE("scipy_solver", rtol=1e-8, atol=1e-8, max_steps=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LSODA's own
        found = solve(blowing_up(rate), settings, torch.ones(3, 1, dtype=DOUBLE))
    assert found.status.tolist() == [Status.CONVERGED, Status.MAX_STEPS, Status.CONVERGED]
    torch.testing.assert_close(found.value[[0, 2], 0], 1 / (1 - rate[[0, 2]]), rtol=1e-6, atol=0)
    assert found.value[1] == 1


def test_an_interval_without_length_is_refused_and_says_what_its_answer_is() -> None:
    with pytest.raises(ValueError, match="must differ; got t0 = t1 = 2.0. The answer there is z0"):
        InitialValue(lambda t, z: -z, t0=2.0, t1=2.0)


NOT_FINITE = [float("inf"), -float("inf"), float("nan")]


@pytest.mark.parametrize("name", ["t0", "t1"])
def test_end_of_the_interval_that_is_no_finite_number_is_refused(name: str) -> None:
    for bad in NOT_FINITE:
        with pytest.raises(ValueError, match=f"{name} must be a finite number; got {bad}"):
            InitialValue(lambda t, z: -z, **{name: bad})
    for tensor in (torch.tensor(2.0), torch.nn.Parameter(torch.tensor(2.0)), "2", True):
        kind = type(tensor).__name__
        with pytest.raises(TypeError, match=f"{name} must be a number; got a {kind}.*float"):
            InitialValue(lambda t, z: -z, **{name: tensor})  # type: ignore[arg-type]


def test_a_learned_end_time_goes_through_the_condition_as_the_error_says() -> None:
    """dz/ds = T f(T s, z) from 0 to 1: z(T) = e^-T, whose derivative is -e^-T."""
    end = torch.tensor([[2.0]], dtype=DOUBLE, requires_grad=True)
    problem = InitialValue(lambda s, z, end: end * -z, condition=(end,))
    fine = ODE(rtol=1e-9, atol=1e-9)
    found = Unroll().apply(problem, fine, torch.ones(1, 1, dtype=DOUBLE))
    (got,) = torch.autograd.grad(found.value.sum(), end)
    assert abs(float(got) + math.exp(-2)) < 1e-7


def test_evaluations_are_those_that_torchdiffeq_made() -> None:
    calls = 0

    def field(t: Tensor, z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -z

    found = solve(InitialValue(field), ODE(), torch.ones(3, 2))
    assert found.evals.tolist() == [calls] * 3 and calls > 0


def test_state_may_be_a_tuple() -> None:
    """The harmonic oscillator: (q, p)' = (p, -q)."""
    problem = InitialValue(lambda t, z: (z[1], -z[0]), 0.0, math.pi)  # type: ignore[arg-type, return-value]
    start = (torch.ones(2, 1, dtype=DOUBLE), torch.zeros(2, 1, dtype=DOUBLE))
    found = solve(problem, ODE(rtol=1e-9, atol=1e-9), start).check()
    torch.testing.assert_close(found.value[0], -start[0], rtol=0, atol=1e-7)
    torch.testing.assert_close(found.value[1], start[1], rtol=0, atol=1e-7)
