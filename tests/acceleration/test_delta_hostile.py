"""Cells, batches and callers that are not those a delta layer was written for."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ImplicitLayer, Picard
from homotopy_deq.acceleration import Anchored, Auto, Half, account, delta, tune
from homotopy_deq.acceleration.cost import ALWAYS, Costs
from solvers import DeltaAnderson, DeltaPicard, Equilibrium, Solver, Status, solve
from solvers.delta.together import Blocks, Limit

T = 5
"""Tokens of a sample."""


def sparse(*_: object) -> Costs:
    """Take every step by what has changed."""
    return ALWAYS


class Tokens(nn.Module):
    """f(z; x) = tanh(B tanh(A z) + B c + x) on the tokens of a sample, (B, T, n)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(16, 16, bias=False) for _ in range(3))
        for layer in (self.a, self.b):
            weight = layer.weight.detach()
            layer.weight = nn.Parameter(0.8 * weight / torch.linalg.matrix_norm(weight, 2))
        self.token = nn.Parameter(torch.randn(1, 16))
        self.double()

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.inner(z) + self.c(self.token) + x)

    def inner(self, z: Tensor) -> Tensor:
        out: Tensor = self.b(torch.tanh(self.a(z)))
        return out


class Flat(Tokens):
    """The same, computed on the tokens of all samples in one row."""

    def inner(self, z: Tensor) -> Tensor:
        return super().inner(z.flatten(0, 1)).view_as(z)


class Sequence(Tokens):
    """The same, computed with the tokens first."""

    def inner(self, z: Tensor) -> Tensor:
        return super().inner(z.transpose(0, 1)).transpose(0, 1)


def spread(batch: int = 9) -> Tensor:
    """Return conditions whose samples end at different steps."""
    size = torch.logspace(-3, 1, batch, dtype=torch.float64)
    return size[:, None, None] * torch.randn(batch, T, 16, dtype=torch.float64)


@pytest.mark.parametrize("cell", [Tokens, Flat, Sequence])
@pytest.mark.parametrize(
    "solver",
    [DeltaPicard(theta=0.3), DeltaAnderson(theta=0.3), DeltaPicard(tau=1e-9), Anchored()],
    ids=lambda solver: f"{type(solver).__name__}",
)
def test_layers_whose_rows_are_no_samples_are_computed_densely(
    cell: type[Tokens], solver: Solver[Equilibrium, object]
) -> None:
    layer, x = ImplicitLayer(cell(), Picard(rtol=1e-13, max_steps=500)), spread()
    found = delta(layer, solver=solver, rtol=1e-6, products=Auto(costs=sparse)).solve(x)
    assert found.converged.all()
    far = (found.value - layer.solve(x).value).flatten(1).norm(dim=1)
    limit = 1e-6 * found.value.flatten(1).norm(dim=1) / (1 - 0.64)  # the residual over 1 - l
    assert (far <= 1.01 * limit).all()


class Graph(nn.Module):
    """f(z; x) = tanh(A (z W^T) + x), each row a node."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.w = nn.Linear(6, 6)
        nn.init.uniform_(self.w.weight, -0.1, 0.1)
        self.register_buffer("adjacency", torch.rand(nodes, nodes).softmax(1))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.adjacency @ self.w(z) + x)


def test_coupled_rows_are_evaluated_densely() -> None:
    fast, x = delta(ImplicitLayer(Graph(12), coupled=True), theta=0.3), torch.randn(12, 6)
    assert fast.solve(x).converged.all()
    with pytest.raises(ValueError, match="coupled rows"):
        account(fast, x)  # type: ignore[arg-type]


def test_a_layer_that_was_made_in_inference_mode_is_solved() -> None:
    with torch.inference_mode():
        fast = delta(ImplicitLayer(Tokens()), theta=0.3)
        assert fast.solve(spread()).converged.all()


def test_no_bound_is_claimed_from_the_threshold_where_products_are_rounded() -> None:
    layer, x = ImplicitLayer(Linear(), Picard(rtol=1e-14, max_steps=500)), torch.randn(6, 32)
    known = DeltaPicard(tau=1e-6, contraction=0.8, rtol=1e-13)
    exact = layer.solve(x.double()).value
    for products, claimed in ((Half(), False), (Auto(costs=sparse), True)):
        found = delta(layer, solver=known, products=products).solve(x.double())
        assert (found.status == Status.AT_THRESHOLD).all() and found.bound is not None
        far = (found.value - exact).norm(dim=1)
        assert (far <= found.bound.posterior).all() and (far <= found.bound.prior).all()
        assert all(math.isfinite(each) == claimed for each in found.bound.prior.tolist())


class Linear(nn.Module):
    """f(z; x) = tanh(W z + x), a contraction by .8."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Linear(32, 32, dtype=torch.float64)
        weight = self.w.weight.detach()
        self.w.weight = nn.Parameter(0.8 * weight / torch.linalg.matrix_norm(weight, 2))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.w(z) + x)


def test_an_empty_batch_is_not_accounted() -> None:
    with pytest.raises(ValueError, match="empty batch"):
        account(delta(ImplicitLayer(Linear()), theta=0.3), torch.randn(0, 32).double())  # type: ignore[arg-type]


class Slow(Linear):
    """The same, which lets other threads in on the way."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        time.sleep(1e-3)
        return super().forward(z, x)


def test_two_threads_solve_one_problem() -> None:
    fast, x = delta(ImplicitLayer(Slow()), theta=0.3, rtol=1e-6), torch.randn(6, 32).double()
    problem, z0 = fast.problem(fast.condition(x)), torch.zeros_like(x)
    wanted = solve(problem, fast.solver, z0).value
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: solve(problem, fast.solver, z0).value, range(4)))
    assert all(torch.allclose(each, wanted, rtol=0, atol=1e-12) for each in found)


@pytest.mark.parametrize("tau", [-1.0, math.nan, math.inf, "much"])
@pytest.mark.parametrize("name", ["z", "w"])
def test_a_threshold_of_a_layer_is_a_number(name: str, tau: float) -> None:
    with pytest.raises(ValueError, match=f"tau of '{name}' must be a number, at least 0"):
        delta(ImplicitLayer(Linear()), tau={"z": 1e-3, "w": 1e-3, name: tau})


def test_data_without_a_sample_tune_nothing() -> None:
    nothing = torch.randn(0, 32).double()
    with pytest.raises(ValueError, match="a sample"):
        tune(ImplicitLayer(Linear()), [(nothing, nothing)], 1e-3)


class Gated(nn.Module):
    """A z + x, and B z with it where z is small."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.double()

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        out: Tensor = self.a(z) + x
        return out + self.b(z) if z.max().item() < 2 else out


class Scaled(Gated):
    """A z + B z + x of a z that is brought down to norm 2 where it is longer."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        size = z.norm(dim=1, keepdim=True)
        if size.max().item() > 2:
            z = z * (2 / size)
        out: Tensor = self.a(z) + self.b(z) + x
        return out


@pytest.mark.parametrize("kind", [Gated, Scaled])
def test_a_layer_that_was_passed_by_or_given_another_state_gets_all_that_has_changed(
    kind: type[Gated],
) -> None:
    cell, x = kind(), torch.randn(1, 16, dtype=torch.float64)
    layer = delta(ImplicitLayer(cell), solver=DeltaPicard(), products=Auto(costs=sparse))
    updated = layer.equation((x,)).map.updated  # type: ignore[attr-defined]
    begin = torch.full_like(x, 0.1)
    away, back, last = begin.clone(), begin.clone(), None
    away[0, :2] = torch.tensor([3.0, 0.9])
    back[0, 1] = away[0, 1]
    moving, since = None, None
    with torch.no_grad():
        for z in (begin, away, back):
            if since is not None:
                moving = (z != since).any(0)
            last = updated(last, Limit(0.1, Blocks(), moving, since), z, x)
            assert torch.allclose(last.image, cell(z, x), rtol=1e-13, atol=1e-13)
            since = z
