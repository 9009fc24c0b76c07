"""Delta iteration of a map that follows changes: what is told to it, what moves, and gradients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from solvers import (
    Anderson,
    DeltaAnderson,
    DeltaPicard,
    Equilibrium,
    Implicit,
    Picard,
    Solver,
    Status,
    Unroll,
    solve,
)
from solvers.delta import Blocks, Entries
from solvers.structure import Cached, Threshold
from tests.problems import (
    DOUBLE,
    affine,
    exact_gradient,
    linear,
    normal,
    relative_residual,
)


@dataclass
class Follower:
    """f(z) = tanh(W z + x), which follows changes by columns, and by a wrong number if asked to.

    Arguments:
        weight: W, (n, n).
        drift: added to the product by each update.
        stretch: what it says of its Lipschitz constant.
        idle: for how many evaluations it asks to be left alone after each update.
        worth: what it says of whether following changes pays.
    """

    weight: Tensor
    drift: float = 0.0
    stretch: float = 1.0
    dense: int = 0
    columns: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    idle: int = 0
    worth: bool = True

    def pays(self, z: Tensor, x: Tensor) -> bool:
        return self.worth

    def __call__(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight.mT + x)

    def lipschitz(self) -> float:
        return self.stretch

    def multiply_adds(self, z: Tensor, x: Tensor) -> int:
        return len(z) * self.weight.numel()

    def updated(self, last: Cached | None, within: Threshold, z: Tensor, x: Tensor) -> Cached:
        self.rows.append(len(z))
        if last is None:
            self.dense += 1
            product, work = z @ self.weight.mT, len(z) * self.weight.numel()
        else:
            reference, product = last.parts
            index = (z != reference).any(0).nonzero().squeeze(1)
            change = (z - reference)[:, index]
            product = product + change @ self.weight[:, index].mT + self.drift
            work = len(z) * len(index) * len(self.weight)
            self.columns.append(len(index))
        return Cached(torch.tanh(product + x), (z, product), work, True, self.idle)


def followed(**given: Any) -> tuple[Follower, Equilibrium, Equilibrium]:
    """Return a map that follows changes, its equation, and the same one that is plain."""
    n = 24
    scale = torch.where(torch.arange(n) < 4, 0.9, 0.2).to(DOUBLE)  # four slow entries
    map = Follower(scale[:, None] * torch.linalg.qr(normal(0, n, n))[0], **given)
    x = normal(1, 6, n)
    return map, Equilibrium(map, (x,)), Equilibrium(lambda z, x: map(z, x), (x,))


@pytest.mark.parametrize("kind", [DeltaPicard, DeltaAnderson])
@pytest.mark.parametrize("together", [Entries(), Blocks()])
def test_map_that_follows_changes_is_led_along_the_path_of_one_that_does_not(
    kind: type[DeltaPicard], together: Any
) -> None:
    map, problem, plain = followed()
    start = torch.zeros(6, 24, dtype=DOUBLE)
    start[:4] = solve(plain, Picard(rtol=1e-6), start).value[:4]  # these are done early
    solver = kind(theta=0.3, rtol=1e-10, refresh=1000, together=together)
    found, dense = solve(problem, solver, start).check(), solve(plain, solver, start).check()
    assert found.steps.equal(dense.steps) and found.evals.equal(dense.evals)
    torch.testing.assert_close(found.value, dense.value, rtol=0, atol=1e-12)
    assert map.dense == 1 and dense.work is None
    assert found.evals.equal(1 + found.steps)  # each sample is evaluated once a step
    assert found.work is not None and found.work < int(found.evals.sum()) * 24 * 24
    assert min(map.rows) < 6  # what has finished was dropped, with what was kept of it


@pytest.mark.parametrize(
    ("delta", "plain"),
    [(DeltaPicard(damping=0.9), Picard(damping=0.9)), (DeltaAnderson(), Anderson(memory=5))],
)
def test_where_following_changes_does_not_pay_the_steps_are_plain(
    delta: DeltaPicard, plain: Solver[Equilibrium, Any]
) -> None:
    map, problem, _ = followed(worth=False)
    start = torch.zeros(6, 24, dtype=DOUBLE)
    tight = {"rtol": 1e-9, "max_steps": 200}
    found = solve(problem, replace(delta, **tight), start).check()
    assert map.rows == []
    wanted = solve(problem, replace(plain, **tight), start)
    assert found.value.equal(wanted.value) and found.evals.equal(wanted.evals)
    assert found.work == wanted.work
    for promise in ({"tau": 1e-3}, {"contraction": 0.9}, {"bounded": True}):  # kept all the same
        solve(problem, replace(delta, theta=None, **tight, **promise), start)
        assert map.rows
        map.rows.clear()


@pytest.mark.parametrize("kind", [DeltaPicard, DeltaAnderson])
def test_map_that_asks_for_it_is_left_alone_for_some_steps(kind: type[DeltaPicard]) -> None:
    map, problem, plain = followed(idle=3)
    start = torch.zeros(6, 24, dtype=DOUBLE)
    start[:2] = solve(plain, Picard(rtol=1e-8), start).value[:2]
    solver = kind(theta=0.3, rtol=1e-10)
    found = solve(problem, solver, start).check()
    # Each update is dense, as all has moved since the one before; one in four steps is one.
    assert map.columns == [] and map.dense <= -(-int(found.steps.max()) // 4)
    assert found.evals.equal(1 + found.steps)
    assert (relative_residual(plain, found.value) <= 1e-10).all()
    patient = solve(problem, replace(solver, tau=1e-12, theta=None), start)
    assert map.columns and patient.converged.all()  # a threshold that is fixed is kept to


def test_finished_samples_move_nothing() -> None:
    """Beside one hard sample the easy ones, done early, add no columns of their own."""
    map, problem, _ = followed()
    alone = Equilibrium(map, (problem.inputs[0][:1],))
    start = torch.zeros(6, 24, dtype=DOUBLE)
    start[1:] = solve(problem, Picard(rtol=1e-13, max_steps=999), start).value[1:]
    solver = DeltaPicard(theta=0.3, rtol=1e-10)
    object.__setattr__(solver, "refresh", 10**6)
    one = solve(alone, solver, start[:1]).check()
    mine = list(map.columns)
    map.columns.clear()
    both = solve(problem, solver, start).check()
    assert map.columns == mine
    assert both.steps[0] == one.steps[0]


def test_wrong_update_is_never_converged() -> None:
    """CONVERGED is the residual of the map as the user wrote it, evaluated densely."""
    map, problem, plain = followed(drift=1e-3)
    start = torch.zeros(6, 24, dtype=DOUBLE)
    found = solve(problem, DeltaPicard(theta=0.1, rtol=1e-8, refresh=10**6), start)
    residual = relative_residual(plain, found.value)
    torch.testing.assert_close(found.residual, residual, rtol=1e-9, atol=0)
    assert (residual[found.converged] <= 1e-8).all()


def test_dense_refresh_takes_the_drift_out() -> None:
    start = torch.zeros(6, 24, dtype=DOUBLE)
    steps = {}
    for refresh in (4, 10**6):
        map, problem, _ = followed(drift=1e-9)
        found = solve(problem, DeltaPicard(theta=0.1, rtol=1e-8, refresh=refresh), start)
        steps[refresh] = int(found.steps.max())
        assert found.converged.all() == (refresh == 4)
        assert map.dense == (1 + (steps[4] - 1) // 4 if refresh == 4 else 1)  # the last is the map


@pytest.mark.parametrize("together", [Entries(), Blocks()])
def test_sample_that_is_not_finite_harms_no_other(together: Any) -> None:
    _, problem, _ = followed()
    (x,) = problem.inputs
    solver, start = DeltaPicard(theta=0.3, rtol=1e-9, together=together), torch.zeros_like(x)
    alone = solve(problem, solver, start).check()
    bad = x.clone()
    bad[2, 5], bad[4] = float("nan"), float("inf")
    wrong = replace(problem, condition=(bad,))
    start[4] = 1e308
    found = solve(wrong, solver, start)
    fine = torch.tensor([0, 1, 3, 5])
    assert found.converged[fine].all() and found.status[2] == Status.NONFINITE
    torch.testing.assert_close(found.value[fine], alone.value[fine], rtol=0, atol=1e-8)


def test_blocks_move_an_entry_in_all_samples_or_a_tile_of_an_image() -> None:
    change = torch.zeros(3, 5)
    change[1, 2], change[0, 4] = 1.0, 0.1
    assert (Blocks().most(change) > 0.5).nonzero().flatten().tolist() == [2]
    assert Entries().most(change).equal(change)
    image = torch.zeros(2, 3, 5, 6)
    image[1, 0, 4, 1] = -1.0
    far = (Blocks(2).most(image) > 0.5).expand_as(image)
    assert far[1, 2].nonzero().tolist() == [[4, 0], [4, 1]] and not far[0].any()
    # Relative to the largest change: of the batch where a group reaches across it.
    far = torch.full((3,), 2.0)  # times the tolerance
    assert Blocks().relative(change, 0.01, far).tolist() == pytest.approx(0.01)
    assert Entries().relative(change, 0.5, far).tolist() == pytest.approx([0.05, 0.5, 0.0])
    assert Blocks().relative(image, 0.5, far[:2]).tolist() == [0.0, 0.5]
    # But not above half of a sample's own that has not met its tolerance.
    assert Blocks().relative(change, 0.3, far).tolist() == pytest.approx(0.05)
    for left in ([1.0, 2.0, 2.0], [2.0, 5.0, 2.0]):  # met, or nearer than .3 / .5 times another
        assert Blocks().relative(change, 0.3, torch.tensor(left)).tolist() == pytest.approx(0.3)


@pytest.mark.parametrize("kind", [DeltaPicard, DeltaAnderson])
def test_mate_that_runs_away_holds_up_no_sample_whose_entries_move_with_its(
    kind: type[DeltaPicard],
) -> None:
    a = torch.stack([0.5 * torch.linalg.qr(normal(k, 6, 6))[0] for k in range(4)])
    a[1] *= 4.0  # grows by 2 each step
    problem = Equilibrium(affine, (a, normal(9, 4, 6)))
    solver = kind(theta=0.3, rtol=1e-8, together=Blocks(), max_steps=150)
    found = solve(problem, solver, torch.zeros(4, 6, dtype=DOUBLE))
    assert found.converged.tolist() == [True, False, True, True]


def test_slow_sample_waits_a_tenth_of_the_steps_at_most_for_one_that_is_far_off() -> None:
    rates = torch.tensor([0.98, 0.9643], dtype=torch.float64)[:, None]  # 281 and 280 steps alone
    start = 1 - torch.block_diag(*torch.tensor([[0.02] * 4, [1.0] * 4], dtype=torch.float64))
    problem = Equilibrium(lambda z: rates * z + (1 - rates))
    solver = DeltaPicard(rtol=1e-6, max_steps=320, together=Blocks())
    assert solve(problem, solver, start).converged.all()


def test_autocast_and_a_closure_are_evaluated_densely() -> None:
    map, problem, _ = followed()
    start = torch.zeros(6, 24)
    single = Equilibrium(Follower(map.weight.float()), tuple(x.float() for x in problem.inputs))
    with torch.autocast("cpu", torch.bfloat16):
        found = solve(single, DeltaPicard(rtol=2e-2), start).check()
    assert found.raised_rtol is None and single.map.rows == []  # type: ignore[attr-defined]
    closed = Equilibrium(lambda z: map(z, problem.inputs[0]))
    solve(closed, DeltaPicard(rtol=1e-6), start.double()).check()
    assert map.rows == []


# --- gradients ----------------------------------------------------------------------------------


def test_implicit_gradient_is_that_of_the_exact_equation() -> None:
    map, problem, _ = followed()
    x = problem.inputs[0].clone().requires_grad_()
    v, start = normal(5, 6, 24), torch.zeros(6, 24, dtype=DOUBLE)
    rule = Implicit(Picard(rtol=1e-13, max_steps=2000))
    found = rule.apply(Equilibrium(map, (x,)), DeltaPicard(theta=0.3, rtol=1e-13), start).check()
    assert len(map.columns) > 3
    (found.value * v).sum().backward()
    (exact,) = exact_gradient(map, found.value, (x,), v)
    torch.testing.assert_close(x.grad, exact, rtol=1e-10, atol=1e-12)


def test_unrolled_gradient_is_that_of_the_thresholded_steps() -> None:
    case, tau = linear(3, 6, 0.9), 1e-2
    a, x = (t.clone().requires_grad_() for t in case.problem.inputs)
    solver = DeltaPicard(tau=tau, rtol=1e-9, max_steps=6)
    found = Unroll().apply(Equilibrium(case.problem.map, (a, x)), solver, case.z0)
    v = normal(3, 3, 6)
    got = torch.autograd.grad((found.value * v).sum(), (a, x))
    r = case.z0
    for _ in range(5):
        image = case.problem.map(r, a, x)
        r = torch.where((image - r).abs() > tau, image, r)
    assert ((case.problem.map(r, a, x) - r).abs().amax(1) > tau).all()  # none rests before
    wanted = torch.autograd.grad((case.problem.map(r, a, x) * v).sum(), (a, x))
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)
