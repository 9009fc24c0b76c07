"""A cell that torch.compile compiled gives what the cell gives, whatever is asked of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import (
    ODE,
    Adjoint,
    Equilibrium,
    FlowLayer,
    Implicit,
    ImplicitLayer,
    NewtonKrylov,
    Phantom,
    Picard,
    Unroll,
    solve,
)
from homotopy_deq.layers import Layer
from homotopy_deq.regularization import jacobian_penalty


class Cell(nn.Module):
    """tanh(W z + U x): under autocast its compiled graph hands the memory that it saves on."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.inject = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        nn.init.orthogonal_(self.recurrent.weight, gain=0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.recurrent(z) + self.inject(x))


def first(layer: Layer, x: Tensor) -> Tensor:
    return layer(x).square().sum()


def penalty(layer: Layer, x: Tensor) -> Tensor:
    return jacobian_penalty(
        layer.cell, layer(x).detach(), x, generator=torch.Generator().manual_seed(0)
    )


def second(layer: Layer, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(first(layer, x), x, create_graph=True)
    return slope.square().sum()


CASES: dict[str, tuple[Callable[[nn.Module], Layer], Callable[[Layer, Tensor], Tensor]]] = {
    "implicit": (lambda cell: ImplicitLayer(cell), first),
    "phantom": (lambda cell: ImplicitLayer(cell, gradient=Phantom(3)), first),
    "unroll": (lambda cell: ImplicitLayer(cell, gradient=Unroll()), first),
    "adjoint": (lambda cell: FlowLayer(cell, ODE("rk4", step_size=0.5), Adjoint()), first),
    "newton": (lambda cell: ImplicitLayer(cell, NewtonKrylov()), first),
    "second derivative": (lambda cell: ImplicitLayer(cell, gradient=Implicit()), second),
    "penalty": (lambda cell: ImplicitLayer(cell), penalty),
}


PAIRS = [(case, half) for case in CASES for half in (False, True)]


@pytest.mark.parametrize(("case", "autocast"), PAIRS)
def test_compiled_cell_is_differentiated_as_the_cell_is(case: str, autocast: bool) -> None:
    torch.manual_seed(0)
    cell = Cell()
    make, measure = CASES[case]
    compiled = torch.compile(cell, backend="aot_eager", dynamic=True)
    for batch in (4, 7):
        found, x = [], torch.randn(batch, 4)
        for layer in (make(cell), make(compiled)):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = measure(layer, x)
            found.append(torch.autograd.grad(loss, list(cell.parameters()), allow_unused=True))
        # bfloat16 rounds at 2^-8, and a compiled cell at other places than the cell
        close = {"rtol": 5e-2, "atol": 5e-2} if autocast else {"rtol": 1e-3, "atol": 1e-4}
        for ours, wanted in zip(found[1], found[0], strict=True):
            torch.testing.assert_close(ours, wanted, **close)


def test_adjoint_under_autocast_reaches_the_weights() -> None:
    torch.manual_seed(0)
    cell, x = Cell(), torch.randn(7, 4)
    found = []
    for gradient in (Unroll(), Adjoint()):
        with torch.autocast("cpu", torch.bfloat16):
            loss = first(FlowLayer(cell, ODE("rk4", step_size=0.5), gradient), x)
        found.append(torch.autograd.grad(loss, list(cell.parameters())))
    for ours, wanted in zip(found[1], found[0], strict=True):
        # steps of 0.5 along and against the flow differ by less than bfloat16's 2^-8 a step
        assert (ours - wanted).norm() <= 5e-2 * wanted.norm()


@pytest.mark.parametrize("how", ["module", "in place", "function"])
def test_a_batch_that_shrinks_has_few_sizes_where_its_map_is_compiled_for_each(how: str) -> None:
    """In powers of two from 8 to 64, beside the batch itself; the limit is eight."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    sizes: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        sizes.append(max(each.shape[0] for each in inputs if each.dim() == 2 and 8 in each.shape))
        return graph.forward

    cell, solver = Wide(), Picard(rtol=1e-5, max_steps=400)
    plain = Equilibrium(cell, rowwise=True, condition=())
    static: Any = {"backend": backend, "dynamic": False}
    compiled: Any = copy.deepcopy(cell)
    if how == "in place":
        compiled.compile(**static)
    else:
        compiled = torch.compile(compiled if how == "module" else compiled.forward, **static)
    for batch in (70, 61, 50):
        x = torch.randn(batch, 8) * torch.logspace(-2, 1, batch)[:, None]
        wanted = solve(replace(plain, condition=(x,)), solver, torch.zeros_like(x))
        problem = Equilibrium(compiled, (x,), rowwise=True)
        found = solve(problem, solver, torch.zeros_like(x))
        assert len(set(wanted.steps.tolist())) > 20  # samples finish one after the other
        assert bool(found.converged.all())
        # A row of another batch may round otherwise, and end a step sooner or later.
        assert int((found.steps - wanted.steps).abs().max()) <= 1
        torch.testing.assert_close(found.value, wanted.value, rtol=1e-3, atol=1e-4)
    assert set(sizes) <= {70, 61, 50, 64, 32, 16, 8} and len(sizes) == len(set(sizes))
    assert {32, 16, 8} <= set(sizes)


class Wide(nn.Module):
    """tanh(W z + x) with ||W|| = 0.97: slow where x is small."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8, bias=False)
        nn.init.orthogonal_(self.linear.weight, gain=0.97)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(z) + x)
