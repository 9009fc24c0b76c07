from __future__ import annotations

from typing import Any

import pytest
import torch

from solvers import (
    ODE,
    Anderson,
    Equilibrium,
    InitialValue,
    NewtonKrylov,
    Picard,
    SolveError,
    Status,
    Unroll,
    solve,
)
from tests.problems import DOUBLE, linear, normal


def test_gradient_is_that_of_the_steps_taken() -> None:
    """Three steps of z <- s z + 1 from z0: s^3 z0 + s^2 + s + 1."""
    s = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    z0 = torch.tensor([[3.0]], dtype=DOUBLE, requires_grad=True)
    found = Unroll().apply(Equilibrium(lambda z: s * z + 1), Picard(rtol=1e-9, max_steps=3), z0)
    assert found.status.tolist() == [Status.MAX_STEPS]
    ds, dz0 = torch.autograd.grad(found.value.sum(), (s, z0))
    assert abs(float(ds) - (3 * 0.25 * 3 + 2 * 0.5 + 1)) < 1e-14
    assert abs(float(dz0) - 0.125) < 1e-14


@pytest.mark.parametrize("solver", [Picard(), Anderson(), NewtonKrylov()])
def test_steps_that_are_differentiated_are_those_of_solve(solver: Any) -> None:
    case = linear(3, 4, 0.8)
    a, x = case.problem.condition or ()
    watched = Equilibrium(case.problem.map, (a, x.requires_grad_()))
    found, plain = Unroll().apply(watched, solver, case.z0), solve(watched, solver, case.z0)
    assert found.evals.equal(plain.evals)
    torch.testing.assert_close(found.value, plain.value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", [Picard(), Anderson(), NewtonKrylov()])
def test_nonfinite_samples_are_refused(solver: Picard | Anderson | NewtonKrylov) -> None:
    """Their steps would make the gradient of a shared weight NaN even where they are masked."""
    x = torch.tensor([[0.5], [float("nan")]], requires_grad=True)
    problem = Equilibrium(lambda z, x: 0.5 * z + x, (x,))
    with pytest.raises(SolveError):
        Unroll().apply(problem, solver, torch.zeros(2, 1))
    with torch.no_grad():
        found = Unroll().apply(problem, solver, torch.zeros(2, 1))
    assert found.status.tolist() == [Status.CONVERGED, Status.NONFINITE]


def test_finished_samples_have_the_gradient_of_their_own_steps() -> None:
    case = linear(3, 4, 0.8)
    a, x = case.problem.condition or ()
    a = a * torch.tensor([0.1, 1.0, 0.6], dtype=DOUBLE)[:, None, None]
    x.requires_grad_()

    def gradient(rows: slice) -> torch.Tensor:
        problem = Equilibrium(case.problem.map, (a[rows], x[rows]))
        found = Unroll().apply(problem, Anderson(), case.z0[rows]).check()
        return torch.autograd.grad(found.value.sum(), x)[0][rows]

    together = gradient(slice(0, 3))
    for k in range(3):
        torch.testing.assert_close(
            together[k : k + 1], gradient(slice(k, k + 1)), rtol=1e-9, atol=1e-10
        )


def test_unrolled_start_has_its_gradient_through_an_integrator() -> None:
    z0 = normal(0, 2, 3).requires_grad_()
    found = Unroll().apply(InitialValue(lambda t, z: 0.5 * z), ODE("rk4"), z0)
    (got,) = torch.autograd.grad(found.value.sum(), z0)
    # rk4 with dt = 0.1: the Taylor polynomial of e^{dt / 2} to fourth order, ten times.
    h = 0.05
    factor = (1 + h + h**2 / 2 + h**3 / 6 + h**4 / 24) ** 10
    torch.testing.assert_close(got, torch.full_like(z0, factor), rtol=1e-12, atol=0)


def test_method_that_cannot_be_differentiated_is_refused() -> None:
    z0 = torch.zeros(1, 2, requires_grad=True)
    with pytest.raises(ValueError, match=r"not differentiable; use Adjoint\(\)"):
        Unroll().apply(InitialValue(lambda t, z: -z), ODE("scipy_solver"), z0)


def test_inputs_are_not_written_to_under_autograd() -> None:
    case = linear(2, 4, 0.5)
    z0 = normal(0, 2, 4).requires_grad_()
    before = z0.detach().clone()
    for solver in (Picard(), Anderson(), NewtonKrylov()):
        Unroll().apply(case.problem, solver, z0).value.sum().backward()
    assert z0.detach().equal(before)
