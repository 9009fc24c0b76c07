"""Maps that write into their arguments or over their results do no harm."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import FlowLayer, ImplicitLayer
from homotopy_deq.regularization import jacobian_penalty, relative_residual
from solvers import (
    ODE,
    Adjoint,
    Anderson,
    Equilibrium,
    ForwardBackward,
    Implicit,
    InitialValue,
    MonotoneInclusion,
    Phantom,
    Picard,
    Unroll,
    solve,
)
from solvers.guard import Guard
from tests.contract.every import every_solver_of_any_map, tuned
from tests.problems import DOUBLE

X = torch.ones(3, 4, dtype=DOUBLE)


def scaled_in_place(z: Tensor, x: Tensor) -> Tensor:
    return z.mul_(0.5).add_(x)  # f(z) = z / 2 + x, whose root is 2 x


def writing_to_the_condition(z: Tensor, x: Tensor) -> Tensor:
    return x.sub_(-0.5 * z).add_(0)  # right at the first call alone, if x were the caller's


@every_solver_of_any_map
@pytest.mark.parametrize("f", [scaled_in_place, writing_to_the_condition])
def test_map_that_writes_into_its_arguments_has_the_root_that_its_formula_says(
    solver: Any, f: Any
) -> None:
    z0, x = torch.zeros_like(X), X.clone()
    found = solve(Equilibrium(f, (x,)), tuned(solver, rtol=1e-9), z0)
    assert bool(found.converged.all())
    torch.testing.assert_close(found.value, 2 * X, rtol=1e-8, atol=0)  # (1 - 1/2)^-1 times rtol
    assert torch.equal(z0, torch.zeros_like(X)) and torch.equal(x, X)


@pytest.mark.parametrize("solver", [Picard(rtol=1e-9), Anderson(rtol=1e-9)])
def test_map_that_returns_the_same_memory_each_time_does_no_harm(solver: Any) -> None:
    buffer = torch.empty_like(X)
    problem = Equilibrium(lambda z: torch.add(X, z, alpha=0.5, out=buffer))
    found = solve(problem, solver, torch.zeros_like(X))
    assert int(found.steps.min()) > 1
    torch.testing.assert_close(found.value, 2 * X, rtol=1e-8, atol=0)


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_field_that_writes_into_its_state_flows_as_its_formula_says(method: str) -> None:
    z0 = X.clone()
    solver = ODE(method, rtol=1e-9, atol=1e-9, step_size=0.01)
    found = solve(InitialValue(lambda t, z: z.mul_(-1.0)), solver, z0)
    torch.testing.assert_close(found.value, X * torch.e**-1, rtol=1e-7, atol=0)
    assert torch.equal(z0, X)


def test_product_that_writes_into_its_state_has_the_splitting_of_its_formula() -> None:
    problem = MonotoneInclusion(
        linear=lambda z: z.mul_(-1.0), condition=(X,), moduli=lambda: (2.0, 2.0)
    )
    found = solve(problem, ForwardBackward(rtol=1e-9), torch.zeros_like(X))
    torch.testing.assert_close(found.value, X / 2, rtol=1e-8, atol=0)  # z = -z + x


def test_tuple_state_whose_parts_are_written_to_has_the_root_that_its_formula_says() -> None:
    def f(z: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return z[0].mul_(0.5).add_(1), z[1].mul_(0.25).add_(3)

    found = solve(Equilibrium(f), Anderson(rtol=1e-9), (torch.zeros(2, 5), torch.zeros(2, 3)))
    torch.testing.assert_close(found.value[0], torch.full((2, 5), 2.0))
    torch.testing.assert_close(found.value[1], torch.full((2, 3), 4.0))


class Block(nn.Module):
    """A cell that begins with a ReLU, as residual blocks of image models do."""

    def __init__(self, inplace: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.relu = nn.ReLU(inplace=inplace)
        self.linear = nn.Linear(4, 4, dtype=DOUBLE)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return 0.5 * self.linear(self.relu(z)).tanh() + x


@pytest.mark.parametrize(
    ("make", "gradient"),
    [
        (lambda cell, rule: ImplicitLayer(cell, Anderson(rtol=1e-10), rule), Implicit()),
        (lambda cell, rule: ImplicitLayer(cell, Anderson(rtol=1e-10), rule), Phantom(3)),
        (lambda cell, rule: ImplicitLayer(cell, Anderson(rtol=1e-10), rule), Unroll()),
        (lambda cell, rule: FlowLayer(cell, ODE("rk4"), rule), Unroll()),
        (lambda cell, rule: FlowLayer(cell, ODE(), rule), Adjoint()),
    ],
    ids=["implicit", "phantom", "unroll", "flow-unroll", "flow-adjoint"],
)
def test_in_place_activation_changes_neither_answer_nor_gradient(make: Any, gradient: Any) -> None:
    results = []
    for inplace in (False, True):
        cell = Block(inplace)
        x = torch.linspace(-1, 1, 12, dtype=DOUBLE).view(3, 4).requires_grad_()
        value = make(cell, gradient)(x)
        grads = torch.autograd.grad(value.square().sum(), [x, *cell.parameters()])
        results.append([value.detach(), *grads])
    for plain, in_place in zip(*results, strict=True):
        assert torch.equal(plain, in_place)


def test_penalties_see_the_state_as_it_was() -> None:
    z, x = torch.linspace(-1, 1, 12, dtype=DOUBLE).view(3, 4), X

    def penalties(inplace: bool) -> list[Tensor]:
        g = torch.Generator().manual_seed(0)
        cell = Block(inplace)
        return [relative_residual(cell, z, x), jacobian_penalty(cell, z, x, generator=g)]

    for plain, in_place in zip(penalties(False), penalties(True), strict=True):
        assert torch.equal(plain, in_place)


def test_map_that_begins_to_write_later_is_refused() -> None:
    calls = []

    def f(z: Tensor) -> Tensor:
        calls.append(1)
        return z.mul_(0.5) if len(calls) > 2 else 0.5 * z + 1

    with pytest.raises(RuntimeError, match="wrote into its argument"):
        solve(Equilibrium(f), Picard(), torch.zeros(2, 3))


def test_map_that_writes_nothing_gets_its_arguments_uncopied_after_the_first_call() -> None:
    seen = []
    guard = Guard(lambda z: seen.append(z.data_ptr()) or 2 * z)
    z = torch.ones(2, 3)
    for _ in range(3):
        guard(z)
    assert seen[1:] == [z.data_ptr()] * 2 and seen[0] != z.data_ptr()


def test_broken_promise_to_write_nothing_is_refused() -> None:
    with pytest.raises(RuntimeError, match="promised not to by rowwise=True"):
        solve(
            Equilibrium(scaled_in_place, (X.clone(),), rowwise=True), Picard(), torch.zeros_like(X)
        )
