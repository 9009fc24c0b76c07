"""Broyden's last factors as the inverse Jacobian of the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import grad

from homotopy_deq import ImplicitLayer
from homotopy_deq.cells import DenseCell
from solvers import SHINE, Anderson, Broyden, Equilibrium, Implicit, InitialValue, Picard, solve
from tests.problems import contractions, exact_gradient, normal

TIGHT = Broyden(rtol=1e-11, memory=60)


def tanh(z: Tensor, w: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(z @ w.mT + x)


def leaves(n: int = 6) -> tuple[Tensor, Tensor]:
    return contractions(1, n, 0.8, 0)[0].requires_grad_(), normal(1, 4, n).requires_grad_()


def test_gradient_is_that_of_the_factors() -> None:
    """u = -H^T v with the H of each sample's own last state, whenever it finished."""
    w, x = leaves()
    problem = Equilibrium(lambda z, x: tanh(z, w, x), (x,))
    found = solve(problem, Broyden(), torch.zeros_like(x), keep_states=True)
    assert len(found.states) > 1
    v, u = normal(9, 4, 6), torch.empty(4, 6, dtype=torch.float64)
    for index, state in found.states:
        for k, row in enumerate(index.tolist()):
            h = -torch.eye(6, dtype=torch.float64) + state.left[k].mT @ state.right[k]
            u[row] = -h.mT @ v[row]
    z = found.value.detach()
    wanted = grad(tanh(z, w, x), (w, x), u)
    for value in (
        SHINE().attach(problem, found).value,
        SHINE().apply(problem, Broyden(), torch.zeros_like(x)).value,
    ):
        torch.testing.assert_close(grad(value, (w, x), v), wanted, rtol=1e-12, atol=1e-12)


def test_it_is_inexact_and_exact_with_a_solver() -> None:
    w, x = leaves()
    problem = Equilibrium(lambda z, x: tanh(z, w, x), (x,))
    v = normal(9, 4, 6)
    z = solve(problem, TIGHT, torch.zeros_like(x)).value
    (exact, _), zero = exact_gradient(tanh, z, (w, x), v), torch.zeros_like(x)
    error = {
        rule: float((grad(rule.apply(problem, TIGHT, zero).value, w, v)[0] - exact).norm())
        for rule in (SHINE(), SHINE(Anderson(rtol=1e-10)))
    }
    jfb = float((grad(tanh(z, w, x), w, v)[0] - exact).norm())
    assert 1e-6 * exact.norm() < error[SHINE()] < 0.7 * jfb
    assert error[SHINE(Anderson(rtol=1e-10))] < 1e-8 * exact.norm()


def test_second_derivatives_only_with_a_solver() -> None:
    layer = ImplicitLayer(DenseCell(3, 4).double(), TIGHT, SHINE())
    weights = list(layer.parameters())
    first = grad(layer(normal(0, 2, 3)).sum(), weights, create_graph=True)
    with pytest.raises(RuntimeError, match=r"SHINE\(\) has no derivative itself"):
        first[0].sum().backward()
    both = [
        grad(grad(each(normal(0, 2, 3)).sum(), weights, create_graph=True)[0].sum(), weights)
        for each in (
            layer.with_solver(TIGHT, SHINE(Anderson(rtol=1e-11))),
            layer.with_solver(TIGHT, Implicit(Anderson(rtol=1e-11))),
        )
    ]
    torch.testing.assert_close(*both, rtol=1e-7, atol=1e-8)


def test_samples_that_are_not_finite_and_empty_batches_are_left_out() -> None:
    layer = ImplicitLayer(DenseCell(3, 4).double(), TIGHT, SHINE(), on_failure="ignore")
    weights, x = list(layer.parameters()), normal(0, 4, 3)
    spoilt = x.index_fill(0, torch.tensor([1]), float("nan"))
    got = grad(layer(spoilt).sum(), weights)
    torch.testing.assert_close(got, grad(layer(x[[0, 2, 3]]).sum(), weights), rtol=1e-8, atol=1e-8)
    assert not any(g.any() for g in grad(layer(x[:0]).sum(), weights))


def test_what_has_no_factors_is_refused_in_one_line() -> None:
    w, x = leaves()
    problem, zero = Equilibrium(lambda z, x: tanh(z, w, x), (x,)), torch.zeros_like(x)
    with pytest.raises(TypeError, match=r"Broyden\(\) ends with; got Picard.*Use Implicit\(\)"):
        SHINE().apply(problem, Picard(), zero)
    with pytest.raises(ValueError, match="keep_states=True"):
        SHINE().attach(problem, solve(problem, Broyden(), zero))
    with pytest.raises(TypeError, match="last states of Broyden"):
        SHINE().attach(problem, solve(problem, Picard(), zero, keep_states=True))
    with pytest.raises(TypeError, match="SHINE differentiates z"):
        SHINE().apply(InitialValue(lambda t, z: -z), Broyden(), zero)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="SHINE refines .*the class Anderson"):
        SHINE(Anderson)  # type: ignore[arg-type]
