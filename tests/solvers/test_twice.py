"""Maps with fused attention, or compiled, are differentiated as their formulas are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from homotopy_deq import ImplicitLayer
from homotopy_deq.cells import DenseCell
from homotopy_deq.regularization import jacobian_penalty
from solvers import (
    GMRES,
    Anderson,
    ArcLength,
    Continuation,
    Davidenko,
    Equilibrium,
    Implicit,
    NewtonKrylov,
    PseudoTransient,
    Unroll,
    solve,
)
from solvers.jacobian import Linearization, jvp
from tests.contract.every import AnySolver, name
from tests.problems import DOUBLE, exact_gradient, normal

SOLVERS: list[AnySolver] = [
    NewtonKrylov(rtol=1e-9),
    PseudoTransient(rtol=1e-9),
    Continuation(rtol=1e-9),
    ArcLength(rtol=1e-9),
    ArcLength(rtol=1e-9, linear=GMRES(100)),
    Davidenko(rtol=1e-9),
]


class Attends(nn.Module):
    """Causal attention over the 3 tokens of each sample, and a contraction in all."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        q, k, v = (part[:, None] for part in self.qkv(z).chunk(3, dim=-1))
        return 0.3 * scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0] + x


def attention() -> tuple[Attends, Tensor]:
    torch.manual_seed(0)
    return Attends().double(), normal(1, 2, 3, 4)


def exact_product(cell: nn.Module, z: Tensor, x: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.MATH):
        product: Tensor = torch.autograd.functional.jvp(lambda z: cell(z, x), z, v)[1]
    return product


def test_products_with_the_jacobian_of_attention_are_exact() -> None:
    cell, x = attention()
    z, v = normal(2, 2, 3, 4), normal(3, 2, 3, 4)
    wanted = exact_product(cell, z, x, v)
    for got in (jvp(lambda z: cell(z, x), z, v), Linearization(lambda z: cell(z, x), z)(v)):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-13)


def test_kernels_are_as_they_were_afterwards() -> None:
    def enabled() -> list[bool]:
        cuda = torch.backends.cuda
        return [cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()]

    cell, x = attention()
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):  # the formula is off for the caller
        before = enabled()
        Linearization(lambda z: cell(z, x), x)(x)
        assert enabled() == before
    before = enabled()
    with pytest.raises(ZeroDivisionError):
        Linearization(lambda z: z / (1 // 0), x)
    assert enabled() == before


@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_solvers_with_products_follow_a_cell_with_attention(solver: AnySolver) -> None:
    cell, x = attention()
    problem = Equilibrium(cell, (x,))
    want = solve(problem, Anderson(rtol=1e-12), torch.zeros_like(x)).check().value
    got = solve(problem, solver, torch.zeros_like(x)).check().value
    # A residual of 1e-9, over 1 - .3 |J|.
    torch.testing.assert_close(got, want, rtol=0, atol=1e-8)


@pytest.mark.parametrize("rule", [Implicit(Anderson(rtol=1e-12)), Unroll()], ids=name)
def test_gradients_of_a_cell_with_attention_are_those_of_a_dense_solve(rule: Any) -> None:
    cell, x = attention()
    weight = cell.qkv.weight
    found = rule.apply(Equilibrium(cell, (x,)), NewtonKrylov(rtol=1e-12), torch.zeros_like(x))
    v = normal(4, *x.shape)

    def f(z: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(cell, {"qkv.weight": weight}, (z, x))

    (wanted,) = exact_gradient(f, found.value, (weight,), v)
    (got,) = torch.autograd.grad(found.value, weight, v)
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-9)


def test_second_derivative_through_attention_is_that_of_the_iteration() -> None:
    cell, x = attention()
    x.requires_grad_()

    def second(value: Tensor) -> Tensor:
        (first,) = torch.autograd.grad(value.square().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    tight = Anderson(rtol=1e-13)
    got = second(Implicit(tight).apply(Equilibrium(cell, (x,)), tight, x.detach()).value)
    with sdpa_kernel(SDPBackend.MATH):
        z = torch.zeros_like(x)
        for _ in range(60):  # contracts by .3 or so
            z = cell(z, x)
        wanted = second(z)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-10)


def test_jacobian_penalty_of_attention_is_differentiable() -> None:
    cell, x = attention()

    def penalty() -> Tensor:
        return jacobian_penalty(cell, x, x, generator=torch.Generator().manual_seed(0))

    (got,) = torch.autograd.grad(penalty(), cell.qkv.weight)
    with sdpa_kernel(SDPBackend.MATH):
        (wanted,) = torch.autograd.grad(penalty(), cell.qkv.weight)
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-13)


def test_compiled_cell_works_where_its_derivative_is_differentiated() -> None:
    torch.manual_seed(0)
    cell, x = DenseCell(3, 4).double(), normal(1, 4, 3)
    compiled = torch.compile(cell, backend="aot_eager")
    tight = NewtonKrylov(rtol=1e-12)
    found = []
    for module in (cell, compiled):
        layer = ImplicitLayer(module, tight, Implicit(Anderson(rtol=1e-12)))
        z = layer(x)
        first = torch.autograd.grad(z.sum(), list(cell.parameters()), create_graph=True)
        penalty = jacobian_penalty(
            module, z, *layer.condition(x), generator=torch.Generator().manual_seed(0)
        )
        loss = sum((g.square().sum() for g in first), penalty)
        found.append((z, *torch.autograd.grad(loss, list(cell.parameters()))))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


class Once(torch.autograd.Function):
    """z / 2 with a backward pass that can be neither differentiated nor pushed forward."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        return z / 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, v: Tensor) -> Tensor:
        return v / 2


def test_map_without_any_way_to_a_product_is_told_so() -> None:
    z = torch.ones(2, 3, dtype=DOUBLE)
    with pytest.raises(RuntimeError, match="No product J v of this map.*use a solver without"):
        solve(Equilibrium(Once.apply), NewtonKrylov(), z)
