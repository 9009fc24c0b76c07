"""Rows can be selected of every problem, of maps that close over their inputs too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from solvers import ODE, Equilibrium, InitialValue, Status, solve
from solvers.homotopy import Custom, Family, FixedPoint, trace
from solvers.homotopy.arclength import ArcLength
from solvers.rows import Embedded
from tests.contract.every import every_solver_of_any_map
from tests.problems import DOUBLE

X = torch.linspace(-2, 2, 12, dtype=DOUBLE).view(6, 2)


def g(z: Tensor, x: Tensor) -> Tensor:
    return torch.tanh(0.8 * z + x)


def test_some_rows_of_a_closure_are_those_of_its_full_batch_in_any_order() -> None:
    everything = torch.arange(6)
    rows = Embedded(lambda z: g(z, X), everything)
    z = torch.randn(6, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    for index in ([0, 1, 2, 3, 4, 5], [4], [5, 1, 3], [2, 2, 2], [1, 3, 1, 0, 3, 1, 5]):
        at = torch.tensor(index, dtype=torch.int64)
        assert torch.equal(rows(z[at], at), g(z[at], X[at]))


def test_full_batch_of_a_closure_is_evaluated_as_it_is() -> None:
    seen = []
    everything = torch.arange(3)
    rows = Embedded(lambda z: seen.append(z) or z, everything)
    z = torch.zeros(3, 2)
    rows(z, everything)
    assert seen[0] is z


@every_solver_of_any_map
def test_closure_takes_the_path_of_the_same_map_with_a_condition(solver: Any) -> None:
    z0 = torch.zeros_like(X)
    given = solve(Equilibrium(g, (X,)), solver, z0)
    closed = solve(Equilibrium(lambda z: g(z, X)), solver, z0)
    assert torch.equal(given.status, closed.status) and torch.equal(given.steps, closed.steps)
    torch.testing.assert_close(given.value, closed.value, rtol=1e-9, atol=1e-9)


def test_user_functions_of_a_homotopy_close_over_the_batch_that_the_map_does() -> None:
    solver = ArcLength(homotopy=Custom(lambda z, lam: lam * g(z, X)))
    found = solve(Equilibrium(lambda z: g(z, X)), solver, torch.zeros_like(X))
    assert bool(found.converged.all())
    torch.testing.assert_close(found.value, g(found.value, X), rtol=2e-4, atol=1e-12)


def test_branches_of_a_closure_are_those_of_each_sample() -> None:
    z0 = torch.zeros(3, 1, dtype=DOUBLE)
    slope = torch.tensor([[0.5], [-1.0], [2.0]], dtype=DOUBLE)
    family = Family(lambda z, lam: slope * lam, None)  # z = slope lambda
    for k, branch in enumerate(trace(family, z0, span=(0.0, 1.0))):
        torch.testing.assert_close(branch.z[-1], slope[k], rtol=1e-3, atol=0)
    rooted = FixedPoint().of(Equilibrium(lambda z: slope + 0 * z), z0)
    for k, branch in enumerate(trace(rooted, z0, span=(0.0, 1.0))):
        torch.testing.assert_close(branch.z[-1], slope[k], rtol=1e-3, atol=0)


def test_rows_of_a_closure_that_a_flow_gives_up_on_do_not_take_the_others() -> None:

    rate = torch.tensor([[-1.0], [2.0]], dtype=DOUBLE)
    flow = InitialValue(lambda t, z: torch.where(rate > 0, z * z * rate, -z), t1=1.0)
    found = solve(flow, ODE(), torch.ones(2, 1, dtype=DOUBLE))
    assert found.status[0] == Status.CONVERGED and found.status[1] != Status.CONVERGED
    torch.testing.assert_close(found.value[0, 0].item(), torch.e**-1, rtol=1e-2, atol=0)
