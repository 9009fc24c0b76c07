"""A cell that torch.compile compiled gives what the cell gives, whatever is asked of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import (
    ODE,
    Adjoint,
    FlowLayer,
    Implicit,
    ImplicitLayer,
    NewtonKrylov,
    Phantom,
    Unroll,
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
