"""Cells of every kind that delta follows, and layers of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ImplicitLayer, Picard
from homotopy_deq.cells import ContractiveCell, ConvCell, DenseCell
from solvers import Implicit
from tests.problems import normal


class Perceptron(nn.Module):
    """f(z; x) = tanh(B relu(A z) + U x + b): two layers, the second fed by the first."""

    def __init__(self, n: int = 12, inputs: int = 5) -> None:
        super().__init__()
        self.n = n
        self.a = nn.Linear(n, n, bias=False)
        self.b = nn.Linear(n, n)
        self.u = nn.Linear(inputs, n)
        for k, layer in enumerate((self.a, self.b)):
            weight = normal(k, n, n)
            weight = 0.8 * weight / torch.linalg.matrix_norm(weight, 2)
            layer.weight = nn.Parameter(weight)  # so f contracts by .64
        self.double()

    def initial(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.n)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.b(torch.relu(self.a(z))) + self.u(x))


class InPlace(Perceptron):
    """The same, which writes into its argument and into what its layers return."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.b(self.a(z.mul_(1.0)).relu_()).add_(self.u(x)).tanh_()


def slowed(cell: nn.Module) -> nn.Module:
    """Make some rows of a cell's weights small, so that these entries converge at once."""
    with torch.no_grad():
        for weight in cell.parameters():
            if weight.dim() > 1:
                weight[3:] *= 0.05
    return cell.double()


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "dense": lambda: (slowed(DenseCell(5, 12)), normal(3, 6, 5)),
    "perceptron": lambda: (slowed(Perceptron()), normal(3, 6, 5)),
    "in place": lambda: (slowed(InPlace()), normal(3, 6, 5)),
    "convolutional": lambda: (ConvCell(4, groups=2, gain=0.5).double(), normal(3, 3, 4, 7, 6)),
    "inclusion": lambda: (slowed(ContractiveCell((12,))), normal(3, 6, 12)),
    "circular": lambda: (ContractiveCell((4, 6, 6)).double(), normal(3, 3, 4, 6, 6)),
}
every_case = pytest.mark.parametrize("name", CASES)
TIGHT = Picard(rtol=1e-12, max_steps=2000)


def layer_of(name: str, solver: Any = TIGHT) -> tuple[ImplicitLayer, Tensor]:
    torch.manual_seed(0)
    cell, x = CASES[name]()
    return ImplicitLayer(cell, solver, Implicit(TIGHT), on_failure="raise"), x
