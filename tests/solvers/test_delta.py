"""Delta iteration: its bounds hold, no change is lost, and CONVERGED is a dense residual."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solvers import (
    DeltaPicard,
    Equilibrium,
    Picard,
    Status,
    solve,
)
from solvers.delta.together import replaced
from tests.problems import (
    DOUBLE,
    contractions,
    generator,
    linear,
    normal,
    relative_residual,
)
from tests.solvers.test_delta_following import Follower

# 1-Lipschitz entry by entry, so that f(z) = phi(W z + x) contracts as W does, in any norm.
PHI: tuple[Callable[[Tensor], Tensor], ...] = (lambda y: y, torch.tanh, torch.relu, torch.sin)
NEVER = 1e-15  # a tolerance that no path meets before it rests


def test_whole_pixels_are_copied_as_where_takes_their_numbers() -> None:
    last = torch.channels_last
    new, old = (normal(k, 3, 4, 5, 6).to(memory_format=last) for k in (0, 1))
    far = normal(2, 3, 1, 5, 6) > 0
    found = replaced(far, new, old)
    assert found.equal(torch.where(far, new, old)) and found.is_contiguous(memory_format=last)
    assert found.data_ptr() not in (new.data_ptr(), old.data_ptr())


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


def test_a_start_that_is_a_root_has_its_bound_beside_one_that_is_not() -> None:
    case = linear(2, 6, 0.5)
    solver = DeltaPicard(tau=1e-3, contraction=0.5, max_steps=0)
    start = torch.stack((case.answer[0], case.z0[1]))
    found = solve(case.problem, solver, start)
    assert found.bound is not None
    at_root, elsewhere = found.bound.posterior
    assert float(at_root) <= 1e-13 and math.isinf(float(elsewhere))
    assert found.converged.tolist() == [True, False]


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
