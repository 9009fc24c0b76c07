"""Delta iteration: its bounds hold, no change is lost, and CONVERGED is a dense residual."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
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
    contractions,
    exact_gradient,
    generator,
    linear,
    normal,
    relative_residual,
)

# 1-Lipschitz entry by entry, so that f(z) = phi(W z + x) contracts as W does, in any norm.
PHI: tuple[Callable[[Tensor], Tensor], ...] = (lambda y: y, torch.tanh, torch.relu, torch.sin)
NEVER = 1e-15  # a tolerance that no path meets before it rests


@dataclass(frozen=True)
class Drawn:
    """A batch of DEQs z = phi(W z + x) with ||W|| = contraction in a norm, and their answers."""

    problem: Equilibrium
    contraction: float
    norm: float
    tau: float
    answer: Tensor

    def size(self, z: Tensor) -> Tensor:
        return torch.linalg.vector_norm(z, ord=self.norm, dim=-1)

    @property
    def prior(self) -> float:
        """l tau / (1 - l), and sqrt(n) times that in the 2-norm."""
        root = math.sqrt(self.answer.shape[1]) if self.norm == 2 else 1.0
        return self.contraction * self.tau * root / (1 - self.contraction)

    @property
    def slack(self) -> Tensor:
        """Rounding of the answers and of some dozen operations, which the condition enlarges."""
        return 1e-13 * (1 + self.size(self.answer)) / (1 - self.contraction)


def affine(phi: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda z, w, x: phi((w @ z[..., None])[..., 0] + x)


def drawn(seed: int, batch: int) -> Drawn:
    g = generator(seed)

    def between(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=g))

    n, contraction, tau = int(between(1, 13)), between(0.3, 0.95), 10 ** -between(1, 5)
    norm = (2.0, math.inf)[seed // 4 % 2]
    w = torch.randn(batch, n, n, generator=g, dtype=DOUBLE)
    w = w.abs() if seed // 8 % 2 else w  # errors of one sign add up: the bounds are nearly met
    w = contraction * w / torch.linalg.matrix_norm(w, norm, keepdim=True)
    x = torch.randn(batch, n, generator=g, dtype=DOUBLE)
    problem = Equilibrium(affine(PHI[seed % 4]), (w, x))
    z = torch.zeros_like(x)
    for _ in range(math.ceil(math.log(1e-17) / math.log(contraction))):
        z = problem(z)
    return Drawn(problem, contraction, norm, tau, z)


def test_bounds_hold_on_ten_thousand_contractions_and_the_published_rule_breaks_them() -> None:
    broken, nearest = 0, 0.0
    for seed in range(100):
        case = drawn(seed, batch=100)
        start = torch.zeros_like(case.answer)
        plain = DeltaPicard(tau=case.tau, norm=case.norm, rtol=NEVER, max_steps=2000)
        claiming = replace(plain, contraction=case.contraction)
        found = solve(case.problem, claiming, start, record=True)
        assert found.bound is not None and found.trajectory is not None
        error = case.size(found.value - case.answer)
        assert (error <= found.bound.posterior + case.slack).all()
        rest = found.status == Status.AT_THRESHOLD
        assert rest.any() and (rest | found.converged).all()
        # In exact arithmetic these are equal.
        torch.testing.assert_close(
            found.bound.prior[rest], torch.full_like(error, case.prior)[rest]
        )
        assert (error <= found.bound.prior + case.slack).all()
        nearest = max(nearest, float((error / case.prior)[rest].max()))
        for (
            r
        ) in found.trajectory.z:  # at each r on the way ||f(r) - z*|| <= l / (1 - l) ||f(r) - r||
            image = case.problem(r)
            free = case.contraction / (1 - case.contraction) * case.size(image - r)
            assert (case.size(image - case.answer) <= free + case.slack).all()
        published = solve(case.problem, replace(claiming, previous=True), start)
        assert published.bound is None
        far = case.size(published.value - case.answer) > case.prior + case.slack
        broken += int((far & (published.status == Status.AT_THRESHOLD)).sum())
    assert broken > 0
    assert nearest > 0.9  # the draws come near enough to the bound to break a smaller one


def test_bound_of_a_tenth_of_a_thousandth_at_nine_tenths_is_nearly_met() -> None:
    """l = .9 and tau = 1e-4: within l tau / (1 - l) = 9.00e-4, which the published rule exceeds."""
    w = normal(4, 200, 4, 4).abs()
    w = 0.9 * w / w.sum(2, keepdim=True)
    x = normal(7, 200, 4)
    answer = torch.linalg.solve(torch.eye(4, dtype=DOUBLE) - w, x)
    own, published = (
        solve(
            Equilibrium(affine(lambda y: y), (w, x)),
            DeltaPicard(tau=1e-4, rtol=NEVER, max_steps=2000, previous=previous),
            torch.zeros_like(x),
        )
        for previous in (False, True)
    )
    assert 8.9e-4 < float((own.value - answer).abs().max()) <= 9.0e-4
    assert float((published.value - answer).abs().max()) > 9.0e-4


@given(
    n=st.integers(1, 12),
    contraction=st.floats(0.1, 0.9),
    share=st.floats(0.0, 0.9),
    seed=st.integers(0, 999),
)
@settings(max_examples=30)
def test_relative_threshold_leads_to_the_fixed_point_at_its_rate(
    n: int, contraction: float, share: float, seed: int
) -> None:
    """rho = ||f(r) - r||_inf falls to at most (l + theta) rho each step, where theta < 1 - l."""
    theta = share * (1 - contraction)
    w = normal(seed, 5, n, n)
    w = contraction * w / w.abs().sum(2).amax(1)[:, None, None]
    problem = Equilibrium(affine(torch.tanh), (w, normal(seed + 1, 5, n)))
    start = torch.zeros(5, n, dtype=DOUBLE)
    solver = DeltaPicard(theta=theta, rtol=1e-13, max_steps=2000)
    found = solve(problem, solver, start, record=True).check()
    exact = solve(problem, Picard(rtol=1e-14, max_steps=2000), start)
    assert found.trajectory is not None
    torch.testing.assert_close(found.value, exact.value, rtol=0, atol=1e-12 / (1 - contraction))
    rho = torch.stack([(problem(r) - r).abs().amax(1) for r in found.trajectory.z])
    assert (rho[1:] <= (contraction + theta) * rho[:-1] + 1e-14).all()


@pytest.mark.parametrize("damping", [1.0, 0.6])
def test_entry_moves_where_its_change_adds_up_to_more_than_the_threshold(damping: float) -> None:
    case, tau = linear(3, 6, 0.9), 1e-3
    solver = DeltaPicard(tau=tau, damping=damping, rtol=1e-9, max_steps=9)
    found = solve(case.problem, solver, case.z0, record=True)
    r = case.z0
    assert found.trajectory is not None
    for step in found.trajectory.z[1:9]:
        change = case.problem(r) - r
        r = torch.where(change.abs() > tau, r + damping * change, r)
        torch.testing.assert_close(step, r, rtol=1e-12, atol=1e-14)


def test_published_rule_loses_what_it_skips() -> None:
    """An entry that changes by less than tau a step is never propagated, however far it goes."""
    case, tau = linear(3, 6, 0.9), 1e-3
    found = solve(
        case.problem,
        DeltaPicard(tau=tau, previous=True, rtol=1e-9, max_steps=9),
        case.z0,
        record=True,
    )
    a, before = case.z0, case.z0
    assert found.trajectory is not None
    for step in found.trajectory.z[1:9]:
        image = case.problem(a)
        change = image - before
        a, before = torch.where(change.abs() > tau, a + change, a), image
        torch.testing.assert_close(step, a, rtol=1e-12, atol=1e-14)


def test_rest_above_the_tolerance_is_no_convergence() -> None:
    case = linear(4, 6, 0.5)
    found = solve(case.problem, DeltaPicard(tau=1e-2, rtol=1e-8), case.z0)
    assert (found.status == Status.AT_THRESHOLD).all()
    assert "give theta" in found.report()
    loose = solve(case.problem, DeltaPicard(tau=1e-2, rtol=1e-1), case.z0).check()
    torch.testing.assert_close(loose.residual, relative_residual(case.problem, loose.value))


def test_bound_is_claimed_where_the_contraction_is_known() -> None:
    case = linear(4, 6, 0.5)
    start, tau = case.z0, 1e-3
    assert solve(case.problem, DeltaPicard(tau=tau), start).bound is None
    assert solve(case.problem, DeltaPicard(tau=tau, bounded=True), start).bound is None
    for size, claimed in ((0.5, True), (1.0, False)):
        known = Follower(contractions(1, 6, 0.5, 0)[0], stretch=size)
        problem = Equilibrium(known, (normal(1, 4, 6),))
        found = solve(problem, DeltaPicard(tau=tau, bounded=True), start)
        assert (found.bound is not None) == claimed
        assert (
            solve(problem, DeltaPicard(tau=tau, bounded=True, norm=math.inf), start).bound is None
        )
    given = solve(case.problem, DeltaPicard(theta=0.1, contraction=0.5), start)
    assert given.bound is not None and given.bound.prior.isinf().all()  # nothing was known before
    error = (given.value - case.answer).norm(dim=1)
    assert (error <= given.bound.posterior).all() and given.bound.posterior.isfinite().all()


def test_sample_that_failed_has_no_bound() -> None:
    case = linear(4, 6, 0.9)
    start = case.z0.clone()
    start[2] = float("nan")
    found = solve(case.problem, DeltaPicard(tau=1e-3, contraction=0.9), start)
    assert found.bound is not None
    assert found.bound.posterior.isinf().tolist() == [False, False, True, False]


# --- maps that can be brought up to date -------------------------------------------------------


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
    problem = Equilibrium(affine(lambda y: y), (a, normal(9, 4, 6)))
    solver = kind(theta=0.3, rtol=1e-8, together=Blocks(), max_steps=150)
    found = solve(problem, solver, torch.zeros(4, 6, dtype=DOUBLE))
    assert found.converged.tolist() == [True, False, True, True]


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
