"""Hooks of tensors that a map closes over see the gradient as torch's do: once, and whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from solvers import ODE, Equilibrium, InitialValue, Picard, RungeKutta, Unroll
from tests.problems import contractions, normal
from tests.solvers.gradient.rules import EXACT, RULES, TIGHT


def tanh(z: Tensor, weight: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(z @ weight.mT + x)


def answer(rule: Any, solver: Any, weight: Tensor) -> Tensor:
    """Return the answer that a solver finds, whose map closes over a weight."""
    x = normal(1, 3, 4)
    problem: Any = Equilibrium(lambda z, x: tanh(z, weight, x), (x,))
    if isinstance(solver, ODE | RungeKutta):
        problem = InitialValue(lambda t, z, x: tanh(z, weight, x), condition=(x,))
    value: Tensor = rule.apply(problem, solver, torch.zeros_like(x)).value
    return value


@pytest.mark.parametrize("computed", [False, True], ids=["leaf", "computed"])
@pytest.mark.parametrize("name", RULES)
def test_a_hook_is_called_once_and_its_change_counts_once(name: str, computed: bool) -> None:
    base = contractions(1, 4, 0.5, 0)[0].requires_grad_()
    (plain,) = torch.autograd.grad(answer(*RULES[name], base).sum(), base)
    weight, seen = base * 1 if computed else base, []

    def reverse(gradient: Tensor) -> Tensor:
        seen.append(gradient)
        return -gradient

    handle = weight.register_hook(reverse)
    answer(*RULES[name], weight).sum().backward()
    assert len(seen) == 1
    torch.testing.assert_close(seen[0], plain, rtol=0, atol=0)
    torch.testing.assert_close(base.grad, -plain, rtol=0, atol=0)
    handle.remove()


@pytest.mark.parametrize("name", RULES)
def test_a_computed_weight_retains_its_gradient_once(name: str) -> None:
    base = contractions(1, 4, 0.5, 0)[0].requires_grad_()
    weight = base * 2
    weight.retain_grad()
    answer(*RULES[name], weight / 2).sum().backward()
    torch.testing.assert_close(base.grad, 2 * weight.grad, rtol=1e-12, atol=0)
    used = base * 1
    used.retain_grad()
    answer(*RULES[name], used).sum().backward()
    torch.testing.assert_close(used.grad, 2 * weight.grad, rtol=1e-12, atol=0)


def test_a_hook_changes_a_second_derivative_as_in_torch() -> None:
    weight = contractions(1, 4, 0.5, 0)[0].requires_grad_()
    found = []
    for rule in (EXACT, Unroll()):
        handle = weight.register_hook(lambda gradient: gradient.square())
        loss = answer(rule, Picard(rtol=1e-13, max_steps=200), weight).square().sum()
        (first,) = torch.autograd.grad(loss, weight, create_graph=True)
        handle.remove()
        found.append(torch.autograd.grad(first.sum(), weight)[0])
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-10)


def test_a_hook_does_not_see_how_bad_samples_are_found() -> None:
    weight, seen = contractions(1, 4, 0.5, 0)[0].requires_grad_(), []
    weight.register_hook(seen.append)
    x = normal(1, 3, 4)
    x[0] = -torch.inf  # tanh(-inf) is finite, and has a derivative: kept
    problem = Equilibrium(lambda z, x: tanh(z, weight, x), (x,))
    EXACT.apply(problem, TIGHT, torch.zeros_like(x)).value.sum().backward()
    assert len(seen) == 1
