"""Cells whose weights are parametrized: kept or not, they get the same gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, weight_norm

from homotopy_deq import ODE, FlowLayer, ImplicitLayer, RungeKutta
from tests.problems import DOUBLE, normal
from tests.solvers.gradient.rules import RULES, TIGHT


class Cell(nn.Module):
    """tanh(Q z / 2 + v x), Q orthogonal and v of a learned length."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.recurrent = orthogonal(nn.Linear(4, 4, dtype=DOUBLE))
        self.inject = weight_norm(nn.Linear(4, 4, dtype=DOUBLE))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.recurrent(z) / 2 + self.inject(x))


@pytest.mark.parametrize("name", RULES)
def test_weights_that_are_cached_get_the_gradient_of_those_that_are_not(name: str) -> None:
    cell, x = Cell(), normal(1, 3, 4)
    rule, solver = RULES[name]
    flow = isinstance(solver, ODE | RungeKutta)
    layer: Any = (FlowLayer if flow else ImplicitLayer)(cell, solver, rule)
    parameters = list(cell.parameters())
    wanted = torch.autograd.grad(layer(x).sum(), parameters)
    with parametrize.cached():
        found = torch.autograd.grad(layer(x).sum(), parameters)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


def test_a_cached_weight_is_computed_once_for_two_solves() -> None:
    layer, x, calls = ImplicitLayer(Cell(), TIGHT), normal(1, 3, 4), []
    weight: Any = layer.cell.get_submodule("recurrent.parametrizations.weight.0")
    weight.register_forward_hook(lambda *_: calls.append(1))
    with parametrize.cached():
        layer(x), layer(2 * x)
    assert len(calls) == 1
