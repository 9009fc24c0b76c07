"""Cells that solve an equation themselves, under solvers that differentiate the map."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import (
    ODE,
    Adjoint,
    Anderson,
    ArcLength,
    Continuation,
    FlowLayer,
    Implicit,
    ImplicitLayer,
    NewtonKrylov,
    Phantom,
    Picard,
    PseudoTransient,
    Robust,
    Unroll,
)

INNER = {
    "Implicit": lambda cell: ImplicitLayer(
        cell, Anderson(rtol=1e-12), Implicit(Anderson(rtol=1e-12))
    ),
    "Phantom": lambda cell: ImplicitLayer(cell, Anderson(rtol=1e-12), Phantom(50)),
    "Unroll": lambda cell: ImplicitLayer(cell, Picard(rtol=1e-12), Unroll()),
    "Adjoint": lambda cell: FlowLayer(cell, ODE("dopri5", rtol=1e-9, atol=1e-11), Adjoint()),
}
FIRST_ORDER = (ArcLength(rtol=1e-8), Robust(rtol=1e-8))  # their Jacobians are rows of v^T J
OUTER = (
    *FIRST_ORDER, NewtonKrylov(rtol=1e-8), Continuation(rtol=1e-8), PseudoTransient(rtol=1e-8)
)  # fmt: skip
PAIRS = [
    # A backward pass of Adjoint for each row of each Jacobian takes a minute.
    pytest.param(kind, outer, marks=[pytest.mark.slow] if kind == "Adjoint" else [])
    for kind in INNER
    for outer in OUTER
    if kind != "Adjoint" or outer in FIRST_ORDER  # it has no second derivative
]


class Cell(nn.Module):
    """tanh(W z + x / 2 + inner(z) / 4), a contraction by less than 0.8."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.linear = nn.Linear(3, 3, dtype=torch.float64)
        nn.init.orthogonal_(self.linear.weight, gain=0.5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        deeper = 0 if self.inner is None else self.inner(z) / 4
        return torch.tanh(self.linear(z) + x / 2 + deeper)


@pytest.mark.parametrize(
    "kind, outer", PAIRS, ids=lambda p: p if isinstance(p, str) else type(p).__name__
)
def test_nested_layers_are_solved_and_differentiated(kind: str, outer: Any) -> None:
    cell = Cell(INNER[kind](Cell()))
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).view(2, 3)
    exact = Implicit(Anderson(rtol=1e-10))

    def outcome(solver: Any) -> tuple[Tensor, ...]:
        z = ImplicitLayer(cell, solver, exact, on_failure="raise")(x)
        return z, *torch.autograd.grad(z.sum(), list(cell.parameters()))

    # A relative residual of 1e-8 is an error below 1e-8 / 0.2 in z, and of that size in gradients.
    torch.testing.assert_close(outcome(outer), outcome(Anderson(rtol=1e-10)), rtol=1e-6, atol=1e-6)
