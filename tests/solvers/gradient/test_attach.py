"""A gradient attaches to a solution that exists, whoever found it and in whatever form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from solvers import (
    Anderson,
    ArcLength,
    Equilibrium,
    Flow,
    Implicit,
    InitialValue,
    NewtonKrylov,
    Phantom,
    Picard,
    Solution,
    Status,
    Then,
    solve,
)
from tests.contract.every import name
from tests.problems import DOUBLE, contractions, exact_gradient, normal

TIGHT = Anderson(rtol=1e-12, max_steps=500)
EXACT = Implicit(TIGHT)
RULES: list[Any] = [EXACT, Phantom(3, 0.5)]


def tanh(z: Tensor, w: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(z @ w.mT + x)


def weights() -> tuple[Tensor, Tensor]:
    return contractions(1, 4, 0.6, 0)[0].requires_grad_(), normal(1, 3, 4).requires_grad_()


FINDERS: list[Any] = [
    TIGHT,
    Picard(rtol=1e-12, max_steps=500),
    Flow(rtol=1e-12),
    ArcLength(rtol=1e-12),
    Then(Picard(max_steps=2), NewtonKrylov(rtol=1e-12)),
]


@pytest.mark.parametrize("solver", FINDERS, ids=name)
def test_gradient_of_a_found_root_is_that_of_a_dense_solve(solver: Any) -> None:
    w, x = weights()
    problem = Equilibrium(lambda z, x: tanh(z, w, x), (x,))
    found = EXACT.attach(problem, solve(problem, solver, torch.zeros_like(x)))
    v = normal(9, 3, 4)
    want = exact_gradient(tanh, found.value, (w, x), v)
    for got, exact in zip(torch.autograd.grad(found.value, (w, x), v), want, strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-9, atol=1e-10)


def test_root_that_no_solver_found_is_differentiated_too() -> None:
    """z = a z + x has the root x / (1 - a), and dz/da = x / (1 - a)^2."""
    a = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    x = normal(0, 3, 1)
    all_of = torch.ones(3, dtype=torch.int64)
    known = Solution(2 * x, Status.CONVERGED * all_of, 0 * all_of, 0 * all_of, torch.zeros(3))
    value = EXACT.attach(Equilibrium(lambda z, x: a * z + x, (x,)), known).value
    (got,) = torch.autograd.grad(value, a, torch.ones_like(x))
    torch.testing.assert_close(got, 4 * x.sum(), rtol=1e-11, atol=1e-12)


def closed(w: Tensor, x: Tensor) -> tuple[Equilibrium, Any]:
    return Equilibrium(lambda z: tanh(z, w, x)), torch.zeros_like(x)


def coupled(w: Tensor, x: Tensor) -> tuple[Equilibrium, Any]:
    mixes = lambda z, x: tanh(z - 0.2 * z.mean(0), w, x)  # noqa: E731
    return Equilibrium(mixes, (x,), coupled=True), torch.zeros_like(x)


def parts(w: Tensor, x: Tensor) -> tuple[Equilibrium, Any]:
    def f(z: Any, x: Tensor) -> Any:
        return tanh(torch.cat(z, 1), w, x).split([1, 3], 1)

    return Equilibrium(f, (x,)), tuple(torch.zeros_like(x).split([1, 3], 1))


@pytest.mark.parametrize("rule", RULES, ids=name)
@pytest.mark.parametrize("form", [closed, coupled, parts])
def test_attached_afterwards_is_what_apply_attaches(form: Any, rule: Any) -> None:
    w, x = weights()
    problem, z0 = form(w, x)
    plain = solve(problem, TIGHT, z0, record=True)
    gradients = []
    for found in (rule.attach(problem, plain), rule.apply(problem, TIGHT, z0, record=True)):
        assert found.status.equal(plain.status) and found.steps.equal(plain.steps)
        assert found.residual.equal(plain.residual) and found.status.shape == (3,)
        assert found.trajectory is not None
        assert type(found.trajectory.z) is type(plain.trajectory.z)  # type: ignore[union-attr]
        value = found.value if isinstance(found.value, Tensor) else torch.cat(found.value, 1)
        gradients.append(torch.autograd.grad(value.sin().sum(), (w, x)))
    for one, other in zip(*gradients, strict=True):
        assert one.equal(other)


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_sample_that_diverged_has_no_gradient_and_keeps_its_verdict(rule: Any) -> None:
    """z = z^2 + w x has no root for the second sample, which runs off to infinity."""
    w = torch.tensor(0.5, dtype=DOUBLE, requires_grad=True)
    x = torch.tensor([[0.3], [9.0]], dtype=DOUBLE)
    problem = Equilibrium(lambda z, x: z * z + w * x, (x,))
    plain = solve(problem, Picard(rtol=1e-12), torch.zeros_like(x))
    found = rule.attach(problem, plain)
    assert found.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    assert found.value.equal(plain.value)
    assert torch.autograd.grad(found.value[1].sum(), w, retain_graph=True)[0] == 0
    (got,) = torch.autograd.grad(found.value.sum(), w)
    (alone,) = torch.autograd.grad(
        rule.apply(problem.rows(torch.tensor([0])), Picard(rtol=1e-12), x[:1] * 0).value.sum(), w
    )
    torch.testing.assert_close(got, alone, rtol=1e-12, atol=0)


@pytest.mark.parametrize("rule", RULES, ids=name)
def test_no_graph_of_before_goes_along(rule: Any) -> None:
    w, x = weights()
    problem = Equilibrium(lambda z, x: tanh(z, w, x), (x,))
    once = rule.apply(problem, TIGHT, torch.zeros_like(x))
    again = rule.attach(problem, once)
    one, other = (torch.autograd.grad(found.value.sum(), w)[0] for found in (once, again))
    assert one.equal(other)
    with torch.no_grad():
        assert rule.attach(problem, solve(problem, TIGHT, once)).value.grad_fn is None


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    w, x = weights()
    problem = Equilibrium(lambda z, x: tanh(z, w, x), (x,))
    found = solve(problem, TIGHT, torch.zeros_like(x))
    with pytest.raises(ValueError, match=r"condition\[0\] must have the batch of z0 first"):
        EXACT.attach(problem.rows(torch.tensor([0])), found)
    with pytest.raises(TypeError, match=r"Phantom differentiates .*InitialValue.*Use Unroll"):
        Phantom().attach(InitialValue(lambda t, z: -z), found)  # type: ignore[arg-type]
