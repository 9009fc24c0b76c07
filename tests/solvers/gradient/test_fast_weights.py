"""Gradients in tensors that a map closes over and that are computed from others: fast weights,
and weights that torch.func.functional_call puts in a module's place while a call lasts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from homotopy_deq import FlowLayer, ImplicitLayer
from homotopy_deq.cells import MonotoneCell
from solvers import (
    ODE,
    RK4,
    Adjoint,
    Anderson,
    Equilibrium,
    Gradient,
    Implicit,
    InitialValue,
    Picard,
    Reversible,
    RungeKutta,
    Solver,
    Unroll,
)

TIGHT = Anderson(rtol=1e-12)
EXACT = Implicit(Anderson(rtol=1e-12))
SLOW = Picard(rtol=1e-13, max_steps=500)
FINE = ODE("dopri5", rtol=1e-10, atol=1e-12)
# A solve to a relative residual of 1e-12 with contraction 0.6 is right to 1e-12 / 0.4 of its size,
# and so are gradients; numbers here are below 10.
NEAR = {"rtol": 1e-9, "atol": 1e-10}


def matrix(n: int = 4) -> Tensor:
    """Return 0.6 times an orthogonal matrix: a contraction by 0.6."""
    return 0.6 * torch.linalg.qr(torch.randn(n, n, dtype=torch.float64))[0]


def close(found: object, wanted: object) -> None:
    torch.testing.assert_close(found, wanted, **NEAR)


@pytest.mark.parametrize("batched", [True, False], ids=["condition", "closure"])
def test_gradient_in_a_computed_weight_is_that_of_the_linear_solve(batched: bool) -> None:
    base = (matrix() / 2).requires_grad_()
    weight = base * 2  # no leaf
    x, c = torch.randn(2, 3, 4, dtype=torch.float64)
    problem = (
        Equilibrium(lambda z, x: z @ weight.mT + x, (x,))
        if batched
        else Equilibrium(lambda z: z @ weight.mT + x)
    )
    z = EXACT.apply(problem, TIGHT, torch.zeros_like(x)).value
    # z = W z + x; L = <c, z> + ||W||^2: dL/dW = u z^T + 2 W with (I - W)^T u = c
    eye = torch.eye(4, dtype=torch.float64)
    root = torch.linalg.solve(eye - weight, x.mT).mT.detach()
    u = torch.linalg.solve((eye - weight).mT, c.mT).mT.detach()
    wanted = u.mT @ root + 2 * weight.detach()
    loss = (c * z).sum() + weight.square().sum()
    inner, outer = torch.autograd.grad(loss, [weight, base])
    close(inner, wanted)
    close(outer, 2 * wanted)


def test_a_weight_computed_from_another_that_is_used_too_counts_once() -> None:
    a = torch.tensor([[0.3]], dtype=torch.float64, requires_grad=True)
    b = a * a  # both in the map: z = a z + b, z* = a^2 / (1 - a)
    x = torch.zeros(2, 1, dtype=torch.float64)
    z = EXACT.apply(Equilibrium(lambda z, x: z * a + b + x, (x,)), TIGHT, x).value.sum() / 2
    da, db = torch.autograd.grad(z, [a, b], retain_graph=True, create_graph=True)
    close(db, torch.full_like(b, 1 / 0.7))
    close(da, torch.full_like(a, (2 * 0.3 * 0.7 + 0.09) / 0.49))  # total
    (second,) = torch.autograd.grad(da.sum(), a)
    close(second, torch.full_like(a, 2 / 0.7**3))  # of a^2 / (1 - a) = 1 / (1 - a) - 1 - a


@pytest.mark.parametrize(
    ("rule", "solver"),
    [(Adjoint(), FINE), (Reversible(), RungeKutta(RK4, step_size=0.01)), (Unroll(), FINE)],
)
def test_a_flow_s_weight_computed_from_another_that_is_used_too_counts_once(
    rule: Gradient[InitialValue], solver: Solver[InitialValue, Any]
) -> None:
    a = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    b = (a * a).exp()  # both in the field: z' = a z + b, z(1) = (b / a) (e^a - 1)
    start = torch.zeros(2, 1, dtype=torch.float64)
    z = rule.apply(InitialValue(lambda t, z: a * z + b), solver, start).value.sum() / 2
    da, db = torch.autograd.grad(z, [a, b])
    growth = math.exp(0.3)
    close(db, torch.tensor((growth - 1) / 0.3, dtype=torch.float64))
    own = math.exp(0.09) * (0.3 * growth - growth + 1) / 0.09
    total = own + 0.6 * math.exp(0.09) * (growth - 1) / 0.3
    close(da, torch.tensor(total, dtype=torch.float64))


def test_two_weights_from_one_node_are_told_apart() -> None:
    both = torch.tensor([0.2, 0.5], dtype=torch.float64, requires_grad=True)
    a, b = both.unbind()
    x = torch.ones(2, 1, dtype=torch.float64)
    z = EXACT.apply(Equilibrium(lambda z, x: a * z + b * x, (x,)), TIGHT, x).value.sum() / 2
    da, db = torch.autograd.grad(z, [a, b])  # z* = b / (1 - a)
    close(da, torch.tensor(0.5 / 0.64, dtype=torch.float64))
    close(db, torch.tensor(1 / 0.8, dtype=torch.float64))


def test_weight_that_only_a_compiled_map_sees_has_the_gradient_in_its_parameter() -> None:
    base = (matrix() / 2).requires_grad_()
    weight = base * 2
    x = torch.randn(3, 4, dtype=torch.float64)
    f = lambda z, x: torch.tanh(z @ weight.mT + x)  # noqa: E731
    plain = EXACT.apply(Equilibrium(f, (x,)), TIGHT, x).value.sum()
    compiled = Equilibrium(torch.compile(f, backend="aot_eager"), (x,))
    (wanted,) = torch.autograd.grad(plain, base, retain_graph=True)
    (found,) = torch.autograd.grad(EXACT.apply(compiled, TIGHT, x).value.sum(), base)
    close(found, wanted)


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4, dtype=torch.float64)
        with torch.no_grad():
            self.linear.weight.copy_(matrix())

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(z) + x)


def monotone() -> nn.Module:
    cell = MonotoneCell((4,), monotonicity=0.5).double()
    with torch.no_grad():
        cell.gram.mul_(0.3)
    return cell


def adapted(layer: nn.Module, some: Callable[[str], bool]) -> list[Tensor]:
    """Return the gradient, in the slow weights, of a loss after two inner steps on some of them."""
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)
    slow = {k: v.detach().clone().requires_grad_() for k, v in layer.named_parameters()}
    fast = dict(slow)
    for target in (0.3, -0.1):
        loss = (functional_call(layer, fast, (x,)) - target).square().sum()
        names = [name for name in fast if some(name)]
        gradients = torch.autograd.grad(loss, [fast[name] for name in names], create_graph=True)
        fast |= {
            name: fast[name] - 0.05 * gradient
            for name, gradient in zip(names, gradients, strict=True)
        }
    loss = functional_call(layer, fast, (2 * x,)).square().sum()
    return list(torch.autograd.grad(loss, list(slow.values())))


@pytest.mark.parametrize("some", [lambda name: True, lambda name: "bias" in name or "skew" in name])
@pytest.mark.parametrize("make", [Cell, monotone])
def test_maml_with_two_inner_steps_is_that_of_unrolling(
    make: Callable[[], nn.Module], some: Callable[[str], bool]
) -> None:
    cell = make()
    found = adapted(ImplicitLayer(cell, TIGHT, EXACT), some)
    wanted = adapted(ImplicitLayer(cell, SLOW, Unroll()), some)
    assert all(float(each.norm()) > 1e-3 for each in wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)  # of third derivatives


def test_adjoint_after_a_functional_call_is_that_of_unrolling() -> None:
    cell = Cell()
    x = torch.randn(3, 4, dtype=torch.float64)
    fast = {f"cell.{k}": (v * 0.9).detach() for k, v in cell.named_parameters()}
    for each in fast.values():
        each.requires_grad_()
    scaled = {name: 1.1 * each for name, each in fast.items()}

    def gradients(rule: Gradient[InitialValue]) -> tuple[Tensor, ...]:
        out = functional_call(FlowLayer(cell, FINE, rule), scaled, (x,))
        return torch.autograd.grad(out.sum(), [*scaled.values(), *fast.values()], retain_graph=True)

    # both integrate to 1e-10 a step, over some dozen steps
    torch.testing.assert_close(gradients(Adjoint()), gradients(Unroll()), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("rule", ["second derivative of Implicit", "Adjoint"])
def test_a_map_that_has_other_parameters_in_backward_is_refused(rule: str) -> None:
    cell, other = Cell(), Cell()
    layer = FlowLayer(cell, FINE, Adjoint()) if rule == "Adjoint" else ImplicitLayer(cell, TIGHT)
    weights = {f"cell.{k}": v for k, v in other.named_parameters()}  # Parameters: not told apart
    out = functional_call(layer, weights, (torch.randn(3, 4, dtype=torch.float64),)).sum()
    with pytest.raises(RuntimeError, match="functional_call has ended"):
        torch.autograd.grad(out, list(weights.values()), create_graph=rule != "Adjoint")


def test_a_computed_weight_is_told_from_the_state_where_every_sample_failed() -> None:
    base = torch.ones(1, dtype=torch.float64, requires_grad=True)
    weight = base * torch.nan
    x = torch.ones(2, 3, dtype=torch.float64)
    z = EXACT.apply(Equilibrium(lambda z, x: weight * z + x, (x,)), TIGHT, x).value
    (found,) = torch.autograd.grad(z.sum(), weight)
    assert found.item() == 0
