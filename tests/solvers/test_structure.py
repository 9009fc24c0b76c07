"""Maps that say more of themselves than their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from solvers import (
    RK4,
    Anderson,
    Continuation,
    DouglasRachford,
    Equilibrium,
    ForwardBackward,
    InitialValue,
    MonotoneInclusion,
    NewtonKrylov,
    PeacemanRachford,
    Picard,
    RungeKutta,
    Solver,
    solve,
)
from solvers.packing import pack
from solvers.structure import Counter, offered
from tests.problems import DOUBLE, normal

N = 6
NAMES = ("lipschitz", "columns", "multiply_adds")


@dataclass(frozen=True)
class Product:
    """z -> W z, and z -> W z + x."""

    w: Tensor

    def __call__(self, z: Tensor, *condition: Tensor) -> Tensor:
        return sum(condition, z @ self.w.mT)

    def lipschitz(self) -> float:
        return float(torch.linalg.matrix_norm(self.w, 2))

    def columns(self, index: Tensor) -> Callable[..., Tensor]:
        return Product(self.w[:, index])

    def multiply_adds(self, z: Tensor, *condition: Tensor) -> int:
        return len(z) * self.w.numel()


def product(norm: float) -> Product:
    w = normal(0, N, N)
    return Product(w * (norm / torch.linalg.matrix_norm(w, 2)))


@pytest.mark.parametrize("wrap", ["plain", "packed", "counted", "closure", "inclusion"])
def test_a_wrapper_offers_what_its_map_offers(wrap: str) -> None:
    linear, x = product(0.5), normal(1, 3, N)
    problem = Equilibrium(linear, None if wrap == "closure" else (x,))
    if wrap == "inclusion":
        problem = MonotoneInclusion(linear=linear, condition=(x,))
    if wrap != "plain":
        problem = pack(problem, x)[0]
    if wrap == "counted":
        problem = problem.counted()[0]
    # Of a map that closes over its inputs all rows are evaluated, which its wrapper counts.
    for name in NAMES[: 2 if wrap == "closure" else 3]:
        assert offered(problem.map, name) == getattr(linear, name)
    if isinstance(problem, MonotoneInclusion):
        assert offered(problem.linear, "columns") == linear.columns


def test_nothing_is_offered_by_another_map() -> None:
    """What is not the same linear map of the same entries hides them."""
    linear, x = product(0.5), normal(1, 3, N)
    assert offered(torch.tanh, "lipschitz") is None
    assert offered(lambda z: linear(z), "lipschitz") is None
    coupled = pack(Equilibrium(linear, (x,), coupled=True), x)[0]  # one row of all entries
    paired = pack(Equilibrium(lambda z: (linear(z[0]),)), (x,))[0]
    for problem in (coupled, paired):
        assert all(offered(problem.map, name) is None for name in NAMES)


@pytest.mark.parametrize("solver", [Picard(), Anderson(), ForwardBackward(step_size=0.5)], ids=repr)
def test_work_is_that_of_the_rows_that_were_evaluated(solver: Solver[Any, Any]) -> None:
    """`evals` counts for each sample the calls until it stopped, and it is in all of them."""
    x = normal(1, 5, N) * torch.logspace(-3, 3, 5, dtype=DOUBLE)[:, None]
    problem = MonotoneInclusion(linear=product(0.9), condition=(x,), rowwise=True)
    found = solve(problem, solver, torch.ones(5, N, dtype=DOUBLE)).check()
    least, most = int(found.evals.sum()), 5 * int(found.evals.max())
    assert found.work is not None and found.work % N**2 == 0
    assert least <= found.work // N**2 <= most
    alone = solve(problem.rows(torch.tensor([0])), solver, torch.ones(1, N, dtype=DOUBLE))
    assert alone.work == int(alone.evals) * N**2


def test_a_product_with_the_jacobian_is_work_as_an_evaluation_is() -> None:
    x = normal(1, 1, N)
    found = solve(Equilibrium(product(0.9), (x,)), NewtonKrylov(rtol=1e-9), 0 * x).check()
    assert found.work == int(found.evals) * N**2


@pytest.mark.parametrize("solver", [PeacemanRachford(), DouglasRachford()], ids=repr)
def test_a_resolvent_that_says_its_work_counts(solver: Solver[Any, Any]) -> None:
    linear, x = product(0.5), normal(1, 1, N)
    eye = torch.eye(N, dtype=DOUBLE)

    def resolvent(alpha: float) -> Product:
        return Product(torch.linalg.inv((1 + alpha) * eye - alpha * linear.w))

    said = MonotoneInclusion(linear=linear, condition=(x,), resolvent=resolvent)
    found = solve(said, solver, 0 * x).check()
    assert found.work == int(found.evals) * N**2
    untold = MonotoneInclusion(
        linear=linear, condition=(x,), resolvent=lambda alpha: lambda v: resolvent(alpha)(v)
    )
    again = solve(untold, solver, 0 * x).check()
    assert again.work is None and torch.equal(again.evals, found.evals)


def test_work_is_none_where_it_is_not_known() -> None:
    x = normal(1, 2, N)
    assert solve(Equilibrium(lambda z: z / 2), Picard(), x).work is None
    # A path evaluates a homotopy of the map, and counts for itself.
    assert solve(Equilibrium(product(0.5), (x,)), Continuation(), x).work is None


def test_work_of_a_flow_is_that_of_its_field() -> None:
    linear, x = product(0.5), normal(1, 2, N)

    @dataclass(frozen=True)
    class Field:
        def __call__(self, t: Tensor, z: Tensor, x: Tensor) -> Tensor:
            return linear(z, x) - z

        def multiply_adds(self, t: Tensor, z: Tensor, x: Tensor) -> int:
            return linear.multiply_adds(z)

    found = solve(InitialValue(Field(), condition=(x,)), RungeKutta(RK4, step_size=0.1), x)
    assert found.work == 2 * 40 * N**2  # 10 steps of 4 stages


def test_counter_of_another_map_counts_in_the_whole() -> None:
    linear, x = product(0.5), normal(1, 2, N)
    whole = Counter(linear)
    other = Counter(linear, whole)
    whole(x), other(x)
    whole.repeat(3)
    assert (whole.count, whole.work, other.count) == (5, 5 * 2 * N**2, 0)


def test_a_lipschitz_bound_stands_in_for_moduli() -> None:
    """|<W z, z>| <= L ||z||^2, so I - W has m = 1 - L and l = 1 + L: alpha = m / l^2."""
    linear, x = product(0.5), normal(1, 3, N)
    problem = MonotoneInclusion(linear=linear, condition=(x,))
    state = ForwardBackward().init(problem, x)
    assert state.alpha == pytest.approx(0.5 / 1.5**2, rel=1e-12)
    wanted = solve(problem, Anderson(rtol=1e-12), x).check()
    found = solve(problem, ForwardBackward(rtol=1e-12), x).check()
    torch.testing.assert_close(found.value, wanted.value, rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="not known to be monotone"):
        solve(MonotoneInclusion(linear=product(1.5), condition=(x,)), ForwardBackward(), x)


def test_multiply_adds_of_a_map_that_closes_over_its_inputs_are_those_of_all_rows() -> None:
    class Alone:
        def __call__(self, z: Tensor) -> Tensor:
            return 0.5 * z + 1

        def multiply_adds(self, z: Tensor) -> int:
            return z.numel()

    start = torch.tensor([[0.0], [2.0], [5.0]], dtype=DOUBLE)  # the second is solved at once
    found = solve(Equilibrium(Alone()), Picard(), start).check()
    assert found.work == 3 * int(found.evals.max())
