"""The graph of an implicit gradient: what it holds, how long, and which tensors it leads to."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor

from solvers import (
    ODE,
    Adjoint,
    Anderson,
    Equilibrium,
    Implicit,
    InitialValue,
)
from tests.problems import (
    contractions,
    exact_gradient,
    normal,
    pair,
)
from tests.solvers.gradient.rules import RULES
from tests.solvers.gradient.test_hooks import answer
from tests.solvers.gradient.test_implicit import (
    EXACT,
    TIGHT,
    by_both,
    by_condition,
    weights,
)


def test_graph_is_freed_with_its_last_reference() -> None:
    w, x = weights()
    gc.collect()
    gc.disable()
    try:
        value = by_both(w, x)
        freed = weakref.ref(value)
        value.sum().backward()
        del value
        assert freed() is None
    finally:
        gc.enable()


def test_modules_and_functional_calls_find_their_parameters() -> None:
    linear_ = torch.nn.Linear(3, 3).double()
    torch.nn.init.orthogonal_(linear_.weight, 0.5)
    other = {k: (1.5 * p).detach().requires_grad_() for k, p in linear_.named_parameters()}
    x = normal(0, 2, 3)

    def root(parameters: dict[str, Tensor]) -> Tensor:
        problem = Equilibrium(
            lambda z: torch.tanh(torch.func.functional_call(linear_, parameters, (z,)) + x)
        )
        return EXACT.apply(problem, TIGHT, torch.zeros_like(x)).value

    grads = torch.autograd.grad(root(other).sum(), list(other.values()))
    f = lambda z, w, b: torch.tanh(z @ w.mT + b + x)  # noqa: E731
    leaves = (other["weight"], other["bias"])
    wanted = exact_gradient(f, root(other), leaves, torch.ones_like(x))
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_in_place_step_of_an_optimiser_between_forward_and_backward_is_noticed() -> None:
    w, x = weights()
    value = by_both(w, x)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        value.sum().backward()


def test_parameters_frozen_between_forward_and_backward_get_no_gradient() -> None:
    w, x = weights()
    alone, together = by_both(w, x.detach()), by_condition(w, x)
    w.requires_grad_(False)
    alone.sum().backward()
    together.sum().backward()
    assert w.grad is None
    w.requires_grad_()
    (wanted,) = torch.autograd.grad(by_both(w, x).sum(), x)
    torch.testing.assert_close(x.grad, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["Unroll in segments", "Reversible", "Adjoint"])
def test_rules_that_evaluate_again_name_parameters_frozen_since(name: str) -> None:
    w, _ = weights()
    value = answer(*RULES[name], w).sum()
    w.requires_grad_(False)
    with pytest.raises(RuntimeError, match=r"frozen since.*freeze after backward\(\)"):
        value.backward()


def test_autocast_linearises_the_same_map_forward_and_backward() -> None:
    """The products with W are rounded to bfloat16 in f, and so must those of J^T be."""
    w = contractions(1, 8, 0.6, 0)[0].float().requires_grad_()
    x = normal(1, 2, 8).float().requires_grad_()
    seen: list[torch.dtype] = []

    def f(z: Tensor, x: Tensor) -> Tensor:
        product = torch.nn.functional.linear(z, w)
        if product.requires_grad:
            product.register_hook(lambda grad: seen.append(grad.dtype))
        return torch.tanh(product + x)

    with torch.autocast("cpu", torch.bfloat16):
        found = Implicit(Anderson(rtol=1e-2)).apply(
            Equilibrium(f, (x,)), Anderson(rtol=1e-2), torch.zeros_like(x)
        )
    value = found.check().value
    assert value.dtype == torch.float32
    grads = torch.autograd.grad(value.sum(), (w, x))  # outside autocast, as loops do it
    assert set(seen) == {torch.bfloat16}
    exact = exact_gradient(
        lambda z, w, x: torch.tanh(z @ w.mT + x), value, (w, x), torch.ones_like(x)
    )
    for got, want in zip(grads, exact, strict=True):
        assert got.dtype == torch.float32
        # 8 bits of mantissa a product, over some ten products.
        assert (got - want).norm() <= 5e-2 * want.norm()


def test_tuple_state_has_the_gradient_of_the_joined_one() -> None:
    problem, start, case = pair()
    a, x = case.problem.condition or ()
    x.requires_grad_()
    split = EXACT.apply(problem, TIGHT, start).value
    joined = EXACT.apply(case.problem, TIGHT, case.z0).value
    (got,) = torch.autograd.grad(split[0].sum() + split[1].square().sum(), x)
    (want,) = torch.autograd.grad(joined[:, :2].sum() + joined[:, 2:].square().sum(), x)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def kept(rule: Implicit | Adjoint, spent: bool) -> tuple[Tensor, list[weakref.ref[Tensor]]]:
    """Return a loss after its backward pass if `spent`, and references to what its graph held."""
    w, x = weights()
    held: list[weakref.ref[Tensor]] = []

    def f(z: Tensor, x: Tensor) -> Tensor:
        image = torch.tanh(z @ w.mT + x)
        if image.requires_grad:
            held.append(weakref.ref(image))
        return image

    encoded = 2 * x
    held.append(weakref.ref(encoded))
    if isinstance(rule, Implicit):
        found = rule.apply(Equilibrium(f, (encoded,)), TIGHT, torch.zeros_like(x))
    else:
        flow = InitialValue(lambda t, z, x: f(z, x) - z, condition=(encoded,))
        found = rule.apply(flow, ODE("midpoint"), torch.zeros_like(x))
    loss = found.value.square().sum()
    if spent:
        loss.backward()
    return loss, held


@pytest.mark.parametrize("rule", [EXACT, Adjoint()], ids=lambda r: type(r).__name__)
def test_loss_kept_after_backward_holds_no_state(rule: Implicit | Adjoint) -> None:
    """Losses are kept for a plot; torch frees their graphs, and so must an implicit layer."""
    gc.collect()
    loss, held = kept(rule, spent=False)
    assert any(each() is not None for each in held)  # a graph that is needed still
    loss.backward()
    assert all(each() is None for each in held)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("rule", [EXACT, Adjoint()], ids=lambda r: type(r).__name__)
def test_second_backward_needs_retain_graph_as_everywhere(rule: Implicit | Adjoint) -> None:
    loss, held = kept(rule, spent=False)
    loss.backward(retain_graph=True)
    assert any(each() is not None for each in held)
    loss.backward()
    # Of the value alone, so that no other node of the graph is the one that refuses.
    w, x = weights()
    value = by_condition(w, x)
    value.backward(torch.ones_like(value))
    with pytest.raises(RuntimeError, match="second time"):
        value.backward(torch.ones_like(value))


def test_graph_of_a_second_derivative_is_freed_with_it() -> None:
    w, x = weights()
    loss = by_both(w, x).square().sum()
    (first,) = torch.autograd.grad(loss, w, create_graph=True)
    penalty = first.square().sum()
    penalty.backward(retain_graph=True)
    penalty.backward()
    with pytest.raises(RuntimeError, match="second time"):
        penalty.backward()


def test_checkpointed_solve_has_the_same_gradient() -> None:
    """Non-reentrant checkpoints replace what torch saves for a node by what they compute again."""
    w, x = weights()
    wanted = torch.autograd.grad(by_both(w, x).sum(), (w, x))
    value = torch.utils.checkpoint.checkpoint(by_both, w, x, use_reentrant=False)
    for got, want in zip(torch.autograd.grad(value.sum(), (w, x)), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
