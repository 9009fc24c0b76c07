"""Unroll(checkpoint=k) is Unroll to the bit, at the memory of a few steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import grad, gradgradcheck
from torch.nn import functional as F

from experiments.memory import peak_bytes
from homotopy_deq import ImplicitLayer
from homotopy_deq.cells import DenseCell
from solvers import (
    EULER,
    ODE,
    RK4,
    Anderson,
    ArcLength,
    Broyden,
    Continuation,
    Equilibrium,
    Flow,
    InitialValue,
    NewtonKrylov,
    Picard,
    RungeKutta,
    Then,
    Unroll,
)
from tests.contract.every import name
from tests.problems import contractions, normal

PATHS: list[Any] = [
    Picard(damping=0.7),
    Anderson(),
    Broyden(),
    NewtonKrylov(),  # differentiates within its steps
    Flow(),
    Continuation(),
    ArcLength(),
    Then(Picard(max_steps=2), Anderson()),
    RungeKutta(),
    RungeKutta(RK4),
]


def gradients(solver: Any, rule: Unroll, **how: Any) -> tuple[Tensor, ...]:
    """Return those in weights, condition and start, of samples that finish at different steps."""
    w = contractions(1, 8, 0.9, 0)[0].requires_grad_()
    x, z0 = (normal(seed, 5, 8).requires_grad_() for seed in (1, 2))
    scaled = x * torch.tensor([0.1, 1.0, 2.0, 0.5, 4.0], dtype=x.dtype)[:, None]
    problem: Any = Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), (scaled,))
    if isinstance(solver, RungeKutta):
        problem = InitialValue(lambda t, z, x: torch.tanh(z @ w.mT + x) - t * z, 0, 1, (scaled,))
    found = rule.apply(problem, solver, z0)
    return grad(found.value.sin().sum(), (w, x, z0), **how)


@pytest.mark.parametrize("solver", PATHS, ids=name)
@pytest.mark.parametrize("steps", [1, 3])
def test_gradient_is_that_of_unroll_to_the_bit(solver: Any, steps: int) -> None:
    for one, other in zip(
        gradients(solver, Unroll(checkpoint=steps)), gradients(solver, Unroll()), strict=True
    ):
        assert one.equal(other)


def test_second_derivatives_are_there() -> None:
    def end(w: Tensor) -> Tensor:
        problem = Equilibrium(lambda z: torch.tanh(z @ w.mT + 1))
        return Unroll(checkpoint=2).apply(problem, Picard(max_steps=5), normal(0, 2, 3)).value

    assert gradgradcheck(end, contractions(1, 3, 0.5, 0)[0].requires_grad_())


def test_a_graph_that_is_retained_gives_its_gradient_again_and_another_is_freed() -> None:
    layer = ImplicitLayer(DenseCell(3, 4), Picard(), Unroll(checkpoint=3))
    weights, out = list(layer.parameters()), layer(torch.ones(2, 3)).sum()
    first, second = grad(out, weights, retain_graph=True), grad(out, weights)
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def stepped(steps: int, rule: Unroll) -> Callable[[], None]:
    """Return a gradient through so many steps on 20,000 numbers: f takes some 2 states a step."""
    w = torch.tensor(0.01, requires_grad=True)
    x = torch.linspace(-1, 1, 20_000).view(2, -1)
    problem = Equilibrium(lambda z, x: 0.97 * z + torch.tanh(w * z + x), (x,), rowwise=True)
    solver = Picard(rtol=1e-9, max_steps=steps)
    return lambda: rule.apply(problem, solver, torch.zeros_like(x)).value.sum().backward()


def test_memory_is_that_of_the_states_at_the_segments_starts_and_of_one_segment() -> None:
    """Kept: z and f(z) of each tenth of 100 steps; taken again: 10 steps of at most 3 states."""
    state = 20_000 * 4
    whole, parts = (peak_bytes(stepped(100, Unroll(checkpoint=k))) for k in (None, 10))
    assert whole > 2 * 100 * state
    assert parts < (2 * 10 + 3 * 10 + 12) * state  # and what a step takes beside, as in any solve


@pytest.mark.parametrize("steps", [1, 4])
def test_random_numbers_are_drawn_again(steps: int) -> None:
    def of(rule: Unroll) -> tuple[Tensor, ...]:
        torch.manual_seed(3)
        w = torch.full((4,), 0.5, requires_grad=True)
        problem = Equilibrium(lambda z: F.dropout(w * z + 1, 0.3))
        before = Picard(max_steps=8)
        out = rule.apply(problem, before, torch.zeros(3, 4)).value
        state = torch.get_rng_state()
        gradient = grad(out.sum(), w)
        assert torch.get_rng_state().equal(state)  # a backward pass draws none of the caller's
        return out, *gradient

    for one, other in zip(of(Unroll(checkpoint=steps)), of(Unroll()), strict=True):
        assert one.equal(other)


def test_steps_that_cannot_be_taken_again_are_refused() -> None:
    w = torch.full((4,), 0.5, requires_grad=True)
    noisy = Equilibrium(lambda z: w * z + 1 + random.random())
    out = Unroll(checkpoint=3).apply(noisy, Picard(max_steps=8), torch.zeros(3, 4)).value
    with pytest.raises(RuntimeError, match="draws random numbers outside of torch"):
        out.sum().backward()
    plain = Equilibrium(lambda z: w * z + 1)
    out = Unroll(checkpoint=3).apply(plain, Picard(max_steps=8), torch.zeros(3, 4)).value
    with torch.no_grad():
        w.mul_(0.9)
    with pytest.raises(RuntimeError, match=r"written to after the solve.*Call backward\(\) before"):
        out.sum().backward()


def test_what_has_no_segments_is_refused() -> None:
    z0 = torch.zeros(1, 2, requires_grad=True)
    flow = InitialValue(lambda t, z: -z)
    with pytest.raises(ValueError, match=r"ODE\(\) takes all as one.*RungeKutta\(\)"):
        Unroll(checkpoint=2).apply(flow, ODE(), z0)
    with torch.no_grad():  # there is nothing to keep
        assert Unroll(checkpoint=2).apply(flow, ODE(), z0).converged.all()
    with pytest.raises(ValueError, match="checkpoint must be at least 1 step; got 0"):
        Unroll(checkpoint=0)


def test_empty_batch_has_gradients_of_zero() -> None:
    layer = ImplicitLayer(DenseCell(3, 4), Picard(), Unroll(checkpoint=3))
    layer(torch.ones(0, 3)).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


def test_equal_steps_of_a_flow_are_cut_too() -> None:
    solver = RungeKutta(EULER, step_size=0.1)
    for one, other in zip(
        gradients(solver, Unroll(checkpoint=4)), gradients(solver, Unroll()), strict=True
    ):
        assert one.equal(other)


def test_a_second_backward_pass_is_refused_once_a_parameter_was_written_to() -> None:
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    problem = Equilibrium(lambda z: torch.tanh(weight * z + 1))
    start = torch.zeros(1, 1, dtype=torch.float64)
    z = Unroll(checkpoint=100).apply(problem, Picard(), start).value  # one segment has all steps
    z.sum().backward(retain_graph=True)
    with torch.no_grad():
        weight.mul_(0.5)
    with pytest.raises(RuntimeError, match="written to after"):
        z.sum().backward()
