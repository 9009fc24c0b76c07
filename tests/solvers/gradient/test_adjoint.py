from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from solvers import ODE, Adjoint, Anderson, Equilibrium, InitialValue, Status, Unroll, solve
from solvers.gradient.rows import BackwardWarning
from tests.problems import DOUBLE, contractions, exact_gradient, normal

TIGHT = ODE("dopri5", rtol=1e-10, atol=1e-10)
FINE = ODE("rk4", step_size=0.01)
ROOT = Anderson(rtol=1e-12, max_steps=500)


def parts() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return W, b, x and z0."""
    found = (contractions(1, 4, 1.0, 0)[0], normal(1, 4), normal(2, 3, 4), normal(3, 3, 4))
    return tuple(t.requires_grad_() for t in found)  # type: ignore[return-value]


def flow(w: Tensor, b: Tensor, x: Tensor) -> InitialValue:
    return InitialValue(lambda t, z, x: torch.tanh(z @ w.mT + b * t) + x, condition=(x,))


def test_growth_by_half_has_the_derivative_of_the_exponential() -> None:
    """dz1/dz0 of z' = z / 2 is e^0.5 = 1.6487; a costate held constant gives 1."""
    z0 = torch.ones(1, 1, dtype=DOUBLE, requires_grad=True)
    for rule in (Adjoint(), Unroll()):
        found = rule.apply(InitialValue(lambda t, z: 0.5 * z), TIGHT, z0)
        (got,) = torch.autograd.grad(found.value.sum(), z0)
        assert abs(float(got) - math.exp(0.5)) < 1e-8
    loose = Adjoint().apply(InitialValue(lambda t, z: 0.5 * z), ODE(), z0)
    assert abs(float(torch.autograd.grad(loose.value.sum(), z0)[0]) - 1.6487) < 5e-3


@pytest.mark.parametrize("solver", [TIGHT, FINE, ODE("scipy_solver", rtol=1e-9, atol=1e-9)])
def test_gradient_is_that_through_a_tight_integrator(solver: ODE) -> None:
    w, b, x, z0 = leaves = parts()
    v = normal(9, 3, 4)
    got = torch.autograd.grad(Adjoint().apply(flow(w, b, x), solver, z0).value, leaves, v)
    exact = Unroll().apply(flow(w, b, x), ODE("dopri8", rtol=1e-12, atol=1e-12), z0).value
    for a, e in zip(got, torch.autograd.grad(exact, leaves, v), strict=True):
        assert (a - e).norm() <= 1e-5 * e.norm()  # the contract's figure


def test_gradient_is_that_of_finite_differences() -> None:
    w, b, x, z0 = parts()
    leaves = (w, b, x[:1].detach().requires_grad_(), z0[:1].detach().requires_grad_())
    rough = ODE("rk4", step_size=0.1)
    # The adjoint is integrated with steps of 0.1 as well: an error of 0.1^4 / 5!.
    assert torch.autograd.gradcheck(
        lambda w, b, x, z0: Adjoint().apply(flow(w, b, x), rough, z0).value, leaves, atol=1e-5
    )


def shared_by_condition(w: Tensor, e: Tensor) -> tuple[InitialValue, Tensor]:
    field = lambda t, z, x: torch.tanh(z @ w.mT) + x  # noqa: E731
    return InitialValue(field, condition=(e @ w.mT,)), e


def shared_by_start(w: Tensor, e: Tensor) -> tuple[InitialValue, Tensor]:
    return InitialValue(lambda t, z: torch.tanh(z @ w.mT)), e @ w.mT


def shared_by_closure(w: Tensor, e: Tensor) -> tuple[InitialValue, Tensor]:
    x = w.sum() * e  # closed over, and a function of W
    return InitialValue(lambda t, z: torch.tanh(z @ w.mT) + x), e


@pytest.mark.parametrize("share", [shared_by_condition, shared_by_start, shared_by_closure])
def test_parameter_shared_by_field_and_encoder_counts_once(
    share: Callable[[Tensor, Tensor], tuple[InitialValue, Tensor]],
) -> None:
    w, _, e, _ = parts()
    e = e.detach()
    v = normal(9, 3, 4)
    got, want = (
        torch.autograd.grad(rule.apply(problem, solver, z0).value, w, v)[0]
        for rule, solver, (problem, z0) in (
            (Adjoint(), FINE, share(w, e)),
            (Unroll(), FINE, share(w, e)),
        )
    )
    assert (got - want).norm() <= 1e-6 * want.norm()


def test_parameters_of_a_module_are_found() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    net = net.double()
    z0 = normal(0, 2, 3)
    problem = InitialValue(lambda t, z: net(z))
    got = torch.autograd.grad(
        Adjoint().apply(problem, FINE, z0).value.sum(), list(net.parameters())
    )
    want = torch.autograd.grad(
        Unroll().apply(problem, FINE, z0).value.sum(), list(net.parameters())
    )
    for a, e in zip(got, want, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-8)


def test_backwards_in_time_and_tuple_states() -> None:
    z0 = (
        normal(0, 2, 1).requires_grad_(),
        normal(1, 2, 1).requires_grad_(),
    )
    # (q, p)' = (p, -q): a rotation by t0 - t1, whose inverse is its transpose.
    problem = InitialValue(lambda t, z: (z[1], -z[0]), 1.0, 0.0)  # type: ignore[arg-type, return-value]
    q, _ = Adjoint().apply(problem, TIGHT, z0).value
    dq, dp = torch.autograd.grad(q.sum(), z0)
    torch.testing.assert_close(dq, torch.full_like(dq, math.cos(1)), rtol=0, atol=1e-7)
    torch.testing.assert_close(dp, torch.full_like(dp, -math.sin(1)), rtol=0, atol=1e-7)


def test_failed_sample_keeps_its_start_and_the_others_their_gradients() -> None:
    rate = torch.tensor([[0.5], [10.0]], dtype=DOUBLE, requires_grad=True)
    problem = InitialValue(lambda t, z, r: r * z * z, condition=(rate,))
    found = Adjoint().apply(problem, ODE(rtol=1e-8, atol=1e-8), torch.ones(2, 1, dtype=DOUBLE))
    assert found.status[0] == Status.CONVERGED and found.status[1] != Status.CONVERGED
    (got,) = torch.autograd.grad(found.value[found.converged].sum(), rate)
    # z(1) = 1 / (1 - r): its derivative is 4 at r = 1/2.
    assert abs(float(got[0]) - 4) < 1e-4
    assert got[1] == 0


def test_second_derivative_is_refused_with_advice() -> None:
    """autograd.grad would go round a once_differentiable with a wrong number."""
    z0 = normal(0, 2, 3).requires_grad_()
    problem = InitialValue(lambda t, z: torch.sin(z))
    value = Adjoint().apply(problem, FINE, z0).value
    (first,) = torch.autograd.grad(value.square().sum(), z0, create_graph=True)
    (want,) = torch.autograd.grad(
        Unroll().apply(problem, FINE, z0).value.square().sum(), z0, create_graph=True
    )
    assert (first - want).norm() <= 1e-5 * want.norm()
    with pytest.raises(RuntimeError, match=r"use Unroll\(\)"):
        torch.autograd.grad(first.sum(), z0)
    assert torch.autograd.grad(want.sum(), z0)[0].norm() > 0


def test_value_is_that_of_the_solver() -> None:
    w, b, x, z0 = parts()
    plain = solve(flow(w, b, x), ODE(), z0)
    found = Adjoint().apply(flow(w, b, x), ODE(), z0)
    assert found.value.equal(plain.value)
    with torch.no_grad():
        assert not Adjoint().apply(flow(w, b, x), ODE(), z0).value.requires_grad


def test_equilibrium_is_a_type_error_with_advice() -> None:
    with pytest.raises(TypeError, match=r"Adjoint differentiates an InitialValue.*Use Implicit"):
        Adjoint().apply(Equilibrium(lambda z: z), Anderson(), torch.zeros(1, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("rtol", [1e-3, 1e-6])
def test_long_contracting_flow_has_the_gradient_of_its_rest_point(rtol: float) -> None:
    """z' = -r z^3 - r z rests at 0 whatever r: z(20) and dz/dr are below 1e-7 at r = 1.

    Integrated back in one go, z grows like e^t and the integrator gives up.
    """
    rate = torch.ones(1, 1, dtype=DOUBLE, requires_grad=True)
    problem = InitialValue(lambda t, z, r: -r * z**3 - r * z, 0.0, 20.0, (rate,))
    found = Adjoint().apply(problem, ODE(rtol=rtol, atol=rtol), torch.ones(1, 3, dtype=DOUBLE))
    (got,) = torch.autograd.grad(found.value.sum(), rate)
    assert abs(float(got)) < 10 * rtol  # what the integrator leaves of z itself, and some


@pytest.mark.parametrize("t0", [0.0, 3.0])
@pytest.mark.parametrize(("way", "rtol", "times"), [(20, 1e-3, 2), (20, 1e-6, 2.5), (60, 1e-4, 5)])
def test_way_back_of_a_contracting_flow_costs_few_evaluations(
    way: float, rtol: float, times: float, t0: float
) -> None:
    """A step back is one of the forward pass and the slope at its end, 7 evaluations for 6.

    The costate, which is not at rest near t1, needs shorter ones there; beyond 32 steps the
    forward pass is done again as well.
    """
    w, _, x, z0 = parts()
    calls = 0

    def field(t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return torch.tanh(0.8 * z @ w.mT + x) - z

    problem = InitialValue(field, t0, t0 + way, condition=(x,))
    value = Adjoint().apply(problem, ODE(rtol=rtol, atol=rtol), z0).value
    forward, v = calls, normal(9, 3, 4)
    got = torch.autograd.grad(value, (w, x, z0), v)
    assert calls - forward <= times * forward
    rest = solve(Equilibrium(lambda z, x: torch.tanh(0.8 * z @ w.mT + x), (x,)), ROOT, z0).value
    exact = exact_gradient(lambda z, w, x: torch.tanh(0.8 * z @ w.mT + x), rest, (w, x), v)
    for a, e in zip(got, (*exact, torch.zeros_like(z0)), strict=True):
        assert (a - e).abs().max() <= 10 * rtol * v.norm()  # the contract's figure


def stiff(rate: float, cubic: float) -> tuple[Tensor, Tensor, InitialValue]:
    """Return s, r and z' = -s r (z + cubic z^3) of two samples, of which one forgets its start."""
    r = torch.tensor([[1.0], [rate]], dtype=DOUBLE, requires_grad=True)
    s = torch.ones((), dtype=DOUBLE, requires_grad=True)
    return s, r, InitialValue(lambda t, z, r: -s * r * (z + cubic * z**3), condition=(r,))


@pytest.mark.parametrize("rate", [40.0, 640.0, 1500.0])
def test_sample_that_forgets_its_start_has_a_gradient_as_its_batch_mate(rate: float) -> None:
    """z^2 / (1 + z^2) = e^(-2 s r) / 2: integrated back in one go the cube grows beyond bounds."""
    s, r, problem = stiff(rate, 1.0)
    z0 = torch.ones(2, 1, dtype=DOUBLE, requires_grad=True)
    found = Adjoint().apply(problem, ODE(rtol=1e-6, atol=1e-6), z0)
    ds, dr, dz = torch.autograd.grad(found.check().value.sum(), (s, r, z0))
    u = math.exp(-2) / 2
    z = math.sqrt(u / (1 - u))
    want = -(z + z**3)  # dz/dr at t = 1, and dz/ds as r = 1; dz/dz0 = f(z) / f(1) = -want / 2
    for got in (ds, dr[0], 2 * -dz[0]):
        assert abs(float(got) - want) < 1e-4
    assert abs(float(dr[1])) < 1e-6 and abs(float(dz[1])) < 1e-6  # e^-rate, to the tolerance


def test_sample_on_which_the_integrator_gives_up_leaves_the_gradients_of_the_others() -> None:
    s, r, problem = stiff(2.0, 0.0)
    found = Adjoint().apply(problem, TIGHT, torch.ones(2, 1, dtype=DOUBLE))
    v = torch.tensor([[1.0], [math.nan]], dtype=DOUBLE)
    with pytest.warns(BackwardWarning, match=r"1 of 2 samples .*\(1 of them get no gradient"):
        ds, dr = torch.autograd.grad(found.value, (s, r), v)
    assert abs(float(ds) + math.exp(-1)) < 1e-8 and abs(float(dr[0]) + math.exp(-1)) < 1e-8
    assert dr[1] == 0


def test_samples_that_miss_their_states_are_told_of() -> None:
    """A step of rk4 of hr = 3 multiplies z by 1.375, and one back by 16.4."""
    _, r, problem = stiff(30.0, 0.0)
    found = Adjoint().apply(problem, ODE("rk4", step_size=0.1), torch.ones(2, 1, dtype=DOUBLE))
    with pytest.warns(BackwardWarning, match=r"1 of 2 samples .*\(0 of them get no gradient"):
        (dr,) = torch.autograd.grad(found.value.sum(), r)
    assert abs(float(dr[0]) + math.exp(-1)) < 1e-5


def test_samples_of_both_kinds_are_counted_where_a_batch_is_split() -> None:
    """One gets no gradient, so that others are asked apart; of these one misses its states.

    From that one's start a first step of all the way to its next mark ends beyond all numbers.
    """
    r = torch.tensor([[1.0], [1.0], [1.0], [1000.0]], dtype=DOUBLE, requires_grad=True)
    problem = InitialValue(lambda t, z, r: -r * (z + z**3), condition=(r,))
    found = Adjoint().apply(problem, ODE(rtol=1e-3, atol=1e-3), torch.ones(4, 1, dtype=DOUBLE))
    v = torch.tensor([[math.nan], [1.0], [1.0], [1.0]], dtype=DOUBLE)
    with pytest.warns(BackwardWarning, match=r"2 of 4 samples .*\(1 of them get no gradient"):
        (dr,) = torch.autograd.grad(found.value, r, v)
    u = math.exp(-2) / 2
    z = math.sqrt(u / (1 - u))
    wanted = torch.tensor([0.0, -(z + z**3), -(z + z**3), 0.0], dtype=DOUBLE)
    torch.testing.assert_close(dr[:, 0], wanted, atol=1e-5, rtol=0)
