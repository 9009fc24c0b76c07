"""What links homotopies, flows and fixed-point iterations: one step of each is one of another."""

from __future__ import annotations

import torch
from torch import Tensor

from solvers import ODE, Davidenko, Equilibrium, InitialValue, Picard, PseudoTransient, solve
from solvers.homotopy import Newton
from tests.homotopy.suite import tanh_suite


def test_unit_euler_step_of_davidenko_is_a_picard_step() -> None:
    problem, z0 = tanh_suite(1.6, n=10, draws=3)
    z0 = z0 + 0.3
    euler = Davidenko(method="euler", step_size=1.0)
    picard = solve(problem, Picard(max_steps=1), z0)
    assert torch.allclose(euler.flow(problem, z0).value, picard.value, rtol=0, atol=1e-13)


def test_unit_euler_step_of_the_newton_flow_is_a_newton_step() -> None:
    """z' = (I - J)^-1 (f - z), the flow of the Newton homotopy in -log(1 - lambda)."""
    problem, z0 = tanh_suite(0.8, n=10, draws=3)
    euler = Davidenko(homotopy=Newton(), method="euler", step_size=1.0, linear=1e-12)
    step = torch.stack([_newton(problem, z0, k) for k in range(3)])
    assert torch.allclose(euler.flow(problem, z0).value, step, rtol=0, atol=1e-11)


def _newton(problem: Equilibrium, z0: Tensor, k: int, shift: float = 0.0) -> Tensor:
    one = problem.rows(torch.tensor([k]))
    z = z0[k : k + 1]
    jacobian = torch.autograd.functional.jacobian(one, z)[0, :, 0]
    eye = (1 + shift) * torch.eye(z.shape[1], dtype=z.dtype)
    return (z + torch.linalg.solve(eye - jacobian, one.residual(z)[0])).squeeze(0)


def test_linearly_implicit_euler_is_pseudo_transient_continuation() -> None:
    problem, z0 = tanh_suite(0.8, n=10, draws=3)
    delta = 0.7
    found = solve(problem, PseudoTransient(delta=delta, max_steps=1), z0)
    step = torch.stack([_newton(problem, z0, k, 1 / delta) for k in range(3)])
    # its linear solves are as exact as the residual asks for: sqrt of it, at most 0.1
    assert (found.value - step).norm() < 0.1 * (step - z0).norm()


def test_linear_flow_has_its_closed_form() -> None:
    a = torch.randn(6, 6, dtype=torch.float64) / 5
    x, z0 = torch.randn(2, 1, 6, dtype=torch.float64)
    eye = torch.eye(6, dtype=torch.float64)
    rest = torch.linalg.solve(eye - a, x[0])
    flow = InitialValue(lambda t, z: z @ a.T + x - z, 0.0, 2.0)
    end = solve(flow, ODE(rtol=1e-10, atol=1e-10), z0).value[0]
    exact = rest + torch.linalg.matrix_exp(-2 * (eye - a)) @ (z0[0] - rest)
    assert (end - exact).norm() < 1e-8
