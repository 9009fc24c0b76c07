"""Every path to the root has the gradient of the equation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from solvers import Equilibrium, Gradient, Implicit, Unroll
from tests.contract.every import EQUILIBRIUM, AnySolver, every_solver_of_any_map, name, tuned
from tests.problems import (
    DOUBLE,
    contractions,
    conv_cell,
    cosine_cell,
    exact_gradient,
    normal,
    sigmoid_cell,
)

Inputs = tuple[Tensor, ...]


def tight(solver: AnySolver, rtol: float = 1e-12) -> AnySolver:
    return tuned(solver, rtol=rtol, max_steps=1000)


def cell(z: Tensor, w: Tensor, u: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(z @ w.mT + x @ u.mT)


def inputs(batch: int = 3, n: int = 5) -> Inputs:
    """Return W, U and x."""
    w = contractions(1, n, 0.7, 0)[0]
    return tuple(t.requires_grad_() for t in (w, normal(1, n, 2), normal(2, batch, 2)))


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@every_solver_of_any_map
@pytest.mark.parametrize("rule", ["Implicit", "Unroll"])
def test_gradient_does_not_depend_on_the_path(solver: AnySolver, rule: str) -> None:
    w, u, x = leaves = inputs()
    gradient: Any = Unroll() if rule == "Unroll" else Implicit(tight(EQUILIBRIUM[1]))
    problem = Equilibrium(lambda z, x: cell(z, w, u, x), (x,))
    found = gradient.apply(problem, tight(solver, 1e-11), torch.zeros(3, 5, dtype=DOUBLE)).check()
    v = normal(4, 3, 5)
    wanted = exact_gradient(cell, found.value, leaves, v)
    for got, want in zip(torch.autograd.grad(found.value, leaves, v), wanted, strict=True):
        # The contract's figure; an entry that a delta solver skips keeps an older derivative.
        lags = rule == "Unroll" and type(solver).__name__.startswith("Delta")
        assert relative_error(got, want) <= (1e-5 if lags else 1e-7)


@every_solver_of_any_map
def test_any_solver_may_solve_the_backward_equation(solver: AnySolver) -> None:
    w, u, x = leaves = inputs()
    problem = Equilibrium(lambda z, x: cell(z, w, u, x), (x,))
    z0 = torch.zeros(3, 5, dtype=DOUBLE)
    found = Implicit(tight(solver)).apply(problem, tight(EQUILIBRIUM[1]), z0)
    v = normal(4, 3, 5)
    wanted = exact_gradient(cell, found.value, leaves, v)
    for got, want in zip(torch.autograd.grad(found.value, leaves, v), wanted, strict=True):
        assert relative_error(got, want) <= 1e-9  # 1e-12 times the condition number


@pytest.mark.parametrize("solver", [EQUILIBRIUM[1], EQUILIBRIUM[3]], ids=name)
@pytest.mark.parametrize("f", [sigmoid_cell, cosine_cell])
def test_equilibria_that_xitorch_checks(f: Any, solver: AnySolver) -> None:
    """Its cases: f(A z + D z + bias), with gradcheck and gradgradcheck in A, D and bias."""
    leaves = (0.1 * normal(0, 3, 3), 0.1 * normal(1, 2, 3), normal(2, 2, 3))
    leaves = tuple(t.requires_grad_() for t in leaves)
    rule = Implicit(tight(EQUILIBRIUM[1], 1e-13))

    def root(a: Tensor, diag: Tensor, bias: Tensor) -> Tensor:
        problem = Equilibrium(lambda z, d, b: f(z, a, d, b), (diag, bias))
        z0 = torch.zeros(2, 3, dtype=DOUBLE)
        return rule.apply(problem, tight(solver, 1e-13), z0).check().value

    assert torch.autograd.gradcheck(root, leaves)
    assert torch.autograd.gradgradcheck(root, leaves, fast_mode=True)
    v = normal(3, 2, 3)
    value = root(*leaves)
    for got, want in zip(
        torch.autograd.grad(value, leaves, v), exact_gradient(f, value, leaves, v), strict=True
    ):
        assert relative_error(got, want) <= 1e-9


@pytest.mark.parametrize("rule", [Implicit(tight(EQUILIBRIUM[1])), Unroll()], ids=name)
def test_image_states_have_the_same_gradient(rule: Gradient[Equilibrium]) -> None:
    problem, z0 = conv_cell(batch=2, channels=2, size=3)
    (x,) = problem.condition or ()
    x.requires_grad_()
    found = rule.apply(problem, tight(EQUILIBRIUM[1]), z0).check()
    v = normal(5, *z0.shape)
    (want,) = exact_gradient(problem.map, found.value, (x,), v)
    assert relative_error(torch.autograd.grad(found.value, x, v)[0], want) <= 1e-9
