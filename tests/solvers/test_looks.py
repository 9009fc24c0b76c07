"""A GPU is waited for once an evaluation at most: counted on a CPU, see `tests.looks`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from solvers import Anderson, Equilibrium, Implicit, InitialValue, Picard, RungeKutta, Solver, solve

from ..looks import looks

WIDTH = 16
END = 4  # what is asked once: whether convergence was earned, and the answers hold
DROP = 3  # at most, where a batch is halved: what is mixed next, which rows a map is asked for


class Cell(nn.Module):
    """tanh(W z + x), a contraction; counts how often its derivative is asked for."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.W = nn.Linear(WIDTH, WIDTH)
        nn.init.orthogonal_(self.W.weight, gain=0.9)
        self.pulls = 0

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        inner: Tensor = self.W(z) + x
        if inner.requires_grad:
            inner.register_hook(self._pulled)
        return inner.tanh()

    def _pulled(self, grad: Tensor) -> None:
        self.pulls += 1


def problem(batch: int) -> tuple[Cell, Equilibrium, Tensor]:
    cell = Cell()
    x = torch.randn(batch, WIDTH)
    return cell, Equilibrium(cell, (x,)), torch.zeros_like(x)


def extra(batch: int) -> int:
    return END + DROP * (batch.bit_length() - 1)


@pytest.mark.parametrize("batch", [1, 32])
@pytest.mark.parametrize("solver", [Anderson(rtol=1e-6), Picard()], ids=repr)
def test_solve_looks_at_numbers_once_an_evaluation(
    solver: Solver[Equilibrium, Any], batch: int
) -> None:
    _, equation, start = problem(batch)
    with looks() as seen:
        found = solve(equation, solver, start)
    assert found.converged.all()
    evaluations = int(found.evals.max())
    assert evaluations <= len(seen) <= evaluations + extra(batch)


@pytest.mark.parametrize("batch", [1, 32])
def test_backward_pass_looks_at_numbers_once_a_product(batch: int) -> None:
    cell, equation, start = problem(batch)
    loss = Implicit().apply(equation, Anderson(), start).value.square().sum()
    with looks() as seen:
        loss.backward()
    assert cell.pulls > 10
    assert cell.pulls <= len(seen) <= cell.pulls + extra(batch)


@pytest.mark.parametrize("batch", [1, 32])
def test_flow_looks_at_numbers_less_than_once_an_evaluation(batch: int) -> None:
    cell, _, start = problem(batch)
    x = torch.randn(batch, WIDTH)
    flow = InitialValue(lambda t, z, x: cell(z, x) - z, 0.0, 5.0, (x,), rowwise=True)
    with looks() as seen:
        found = solve(flow, RungeKutta(), start)
    assert found.converged.all()
    assert len(seen) < int(found.evals.max())


def test_a_look_is_counted_and_so_is_a_copy_that_waits() -> None:
    x = torch.arange(3.0)
    with looks() as seen:
        there = torch.from_numpy(x.cpu().numpy())
        assert float(x.sum()) == float(there.sum()) == 3
        there.to(x.device)
        there.to(x.device, non_blocking=True)
        x[x > 1]
        with pytest.raises(RuntimeError, match="two devices"):
            x + there
    assert seen == ["cpu", "__float__", "to", "mask"]
