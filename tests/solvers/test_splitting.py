from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from solvers import (
    Anderson,
    DouglasRachford,
    Equilibrium,
    ForwardBackward,
    Implicit,
    MonotoneInclusion,
    PeacemanRachford,
    Picard,
    Solver,
    Then,
    Unroll,
    solve,
)
from solvers.inclusion import Projected
from tests.problems import DOUBLE, exact_gradient, inclusion, normal

SPLITTINGS: list[Solver[Equilibrium, Any]] = [
    ForwardBackward(rtol=1e-10, max_steps=20_000),
    PeacemanRachford(rtol=1e-10, max_steps=2000),
    DouglasRachford(rtol=1e-10, max_steps=4000),
]
ACCELERATED = (
    PeacemanRachford(rtol=1e-10, max_steps=2000, accelerated=Anderson()),
    DouglasRachford(rtol=1e-10, max_steps=4000, accelerated=Anderson()),
)
every_splitting = pytest.mark.parametrize("solver", SPLITTINGS, ids=lambda s: type(s).__name__)


@dataclass(frozen=True)
class Known:
    """An inclusion whose answer was chosen first: with z* >= 0 and a normal g* <= 0 where z* is 0,
    x = z* + g* - W z* has the answer z*."""

    w: Tensor
    problem: MonotoneInclusion
    answer: Tensor
    normal: Tensor

    @property
    def start(self) -> Tensor:
        return torch.zeros_like(self.answer)


def monotone(m: float, n: int = 8, gain: float = 0.3, twist: float = 0.3, seed: int = 0) -> Tensor:
    """W = (1 - m) I - A^T A + B - B^T, with I - W >= m I."""
    a, b = gain * normal(seed, n, n), twist * normal(seed + 1, n, n)
    return (1 - m) * torch.eye(n, dtype=DOUBLE) - a.mT @ a + b - b.mT


def known(w: Tensor, batch: int = 3, seed: int = 0) -> Known:
    signed = normal(seed + 2, batch, len(w)) + 0.5
    answer, slack = signed.relu(), -(-signed).relu()
    return Known(w, inclusion(w, answer + slack - answer @ w.mT), answer, slack)


@every_splitting
@given(m=st.floats(0.05, 1.0), n=st.integers(1, 9), seed=st.integers(0, 99))
def test_answer_is_the_one_that_the_equation_was_made_for(
    solver: Solver[Equilibrium, Any], m: float, n: int, seed: int
) -> None:
    case = known(monotone(m, n, seed=seed), seed=seed)
    found = solve(case.problem, solver, case.start).check()
    # ||z - z*|| <= (1 + ||I - W||) / m ||f(z) - z||, for m >= 0.05 and norms of at most 30.
    scale = found.value.norm(dim=1, keepdim=True).clamp_min(1)
    assert bool(((found.value - case.answer).abs() <= 1e-10 * scale * 31 / 0.05).all())


@every_splitting
def test_answer_of_a_contraction_is_picards(solver: Solver[Equilibrium, Any]) -> None:
    w = normal(0, 6, 6)
    problem = inclusion(0.9 * w / torch.linalg.matrix_norm(w, 2), normal(1, 4, 6))
    start = torch.zeros(4, 6, dtype=DOUBLE)
    wanted = solve(problem, Picard(rtol=1e-13, max_steps=2000), start).check().value
    torch.testing.assert_close(solve(problem, solver, start).value, wanted, rtol=1e-8, atol=1e-8)


def proved(solver: Solver[Equilibrium, Any], alpha: float, m: float, norm: float) -> float:
    """The rates of the literature, as squares and roots of them."""
    forward = 1 - 2 * alpha * m + (alpha * norm) ** 2
    reflected = math.sqrt(forward / (1 + 2 * alpha * m + (alpha * norm) ** 2))
    if isinstance(solver, ForwardBackward):
        return math.sqrt(forward)
    return reflected if isinstance(solver, PeacemanRachford) else (1 + reflected) / 2


@every_splitting
@given(
    m=st.floats(0.05, 1.0),
    twist=st.floats(0.0, 1.0),
    seed=st.integers(0, 99),
    factor=st.sampled_from([0.3, 1.0, 1.7]),
)
def test_every_step_is_as_good_as_the_proved_rate(
    solver: Solver[Equilibrium, Any], m: float, twist: float, seed: int, factor: float
) -> None:
    case = known(monotone(m, twist=twist, seed=seed), seed=seed)
    assert case.problem.moduli is not None
    least, norm = case.problem.moduli()
    assert least >= m - 1e-12
    assert isinstance(solver, (ForwardBackward, PeacemanRachford, DouglasRachford))
    alpha = factor * solver.best(least, norm)
    rate = proved(solver, alpha, least, norm)
    solver = replace(solver, step_size=alpha)
    at_rest = case.answer
    if not isinstance(solver, ForwardBackward):
        at_rest = case.answer + alpha * case.normal  # u* = z* + alpha g*
    state = solver.init(case.problem, case.start)
    for _ in range(30):
        before = state
        state = solver.step(case.problem, state)
        was, now = (
            (at.z if isinstance(solver, ForwardBackward) else at.u) - at_rest
            for at in (before, state)
        )
        # Rounding of 1e-15 in the state.
        assert bool((now.norm(dim=1) <= rate * was.norm(dim=1) + 1e-13).all())


@given(m=st.floats(0.1, 1.0), seed=st.integers(0, 99))
def test_no_step_size_has_a_better_proved_rate_than_the_default(m: float, seed: int) -> None:
    problem = inclusion(monotone(m, seed=seed), normal(0, 1, 8))
    assert problem.moduli is not None
    least, norm = problem.moduli()
    for solver in (ForwardBackward(), PeacemanRachford(), DouglasRachford()):
        best = solver.best(least, norm)
        for factor in (0.5, 0.9, 1.1, 1.5):
            other = proved(solver, factor * best, least, norm)
            assert proved(solver, best, least, norm) <= other + 1e-12


@every_splitting
def test_a_monotone_equation_is_solved_that_picard_leaves(
    solver: Solver[Equilibrium, Any],
) -> None:
    # W turns by a right angle and stretches by 3: I - W >= I, and ||W|| = 3. At z* > 0 the ReLU
    # is the identity nearby, so that plain iteration triples any error.
    w = torch.tensor([[0.0, -3.0], [3.0, 0.0]], dtype=DOUBLE)
    answer = torch.tensor([[2.0, 1.0]], dtype=DOUBLE)
    problem = inclusion(w, answer - answer @ w.mT)
    start = answer + 0.01
    assert not bool(solve(problem, Picard(max_steps=2000), start).converged)
    torch.testing.assert_close(solve(problem, solver, start).check().value, answer)


def test_douglas_rachford_converges_without_strong_monotonicity() -> None:
    # I - W is a rotation by a right angle: m = 0, and Peaceman-Rachford turns u for ever where
    # both reflections are isometries.
    w = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=DOUBLE)
    answer = torch.tensor([[2.0, 1.0]], dtype=DOUBLE)
    problem = inclusion(w, answer - answer @ w.mT)
    start = answer + 0.1
    found = solve(problem, DouglasRachford(rtol=1e-10, max_steps=500), start).check()
    torch.testing.assert_close(found.value, answer, rtol=1e-8, atol=0)
    assert not bool(solve(problem, PeacemanRachford(step_size=1.0, max_steps=500), start).converged)
    with pytest.raises(ValueError, match="not known to be monotone"):
        solve(problem, PeacemanRachford(), start)


def test_an_explicit_network_ends_finitely() -> None:
    depth, width = 5, 4
    w = torch.zeros(depth * width, depth * width, dtype=DOUBLE)
    x = torch.zeros(3, depth * width, dtype=DOUBLE)
    h = x[:, :width] = normal(0, 3, width)
    h = h.relu()
    layers = [h]
    for k in range(1, depth):
        block, bias = normal(k, width, width), normal(10 + k, width)
        w[k * width : (k + 1) * width, (k - 1) * width : k * width] = block
        x[:, k * width : (k + 1) * width] = bias
        h = (h @ block.mT + bias).relu()
        layers.append(h)
    problem = inclusion(w, x, moduli=None)
    solver = PeacemanRachford(step_size=1.0, rtol=1e-13, max_steps=depth + 1)
    found = solve(problem, solver, torch.zeros_like(x)).check()
    torch.testing.assert_close(found.value, torch.cat(layers, 1), rtol=1e-12, atol=1e-12)


def weight(a: Tensor, b: Tensor) -> Tensor:
    return 0.7 * torch.eye(len(a), dtype=a.dtype) - a.mT @ a + b - b.mT


@every_splitting
@pytest.mark.parametrize(
    "gradient", [Implicit(Anderson(rtol=1e-12)), Unroll()], ids=["ift", "bptt"]
)
def test_gradients_reach_what_the_weight_is_made_of(
    solver: Solver[Equilibrium, Any], gradient: Implicit | Unroll
) -> None:
    a, b, x = 0.3 * normal(0, 5, 5), 0.3 * normal(1, 5, 5), normal(2, 3, 5)
    inputs = tuple(t.requires_grad_() for t in (a, b, x))
    found = gradient.apply(inclusion(weight(a, b), x), solver, torch.zeros(3, 5, dtype=DOUBLE))
    v = normal(3, 3, 5)
    computed = torch.autograd.grad(found.value, inputs, v)
    wanted = exact_gradient(
        lambda z, a, b, x: (z @ weight(a, b).mT + x).relu(), found.value, inputs, v
    )
    for one, other in zip(computed, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@every_splitting
def test_every_product_with_the_weight_or_its_resolvent_counts(
    solver: Solver[Equilibrium, Any],
) -> None:
    case = known(monotone(0.5), batch=1)
    calls = {"linear": 0, "resolvent": 0, "factorised": 0}
    assert case.problem.resolvent is not None
    factorise = case.problem.resolvent

    def counting(name: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(v: Tensor) -> Tensor:
            calls[name] += 1
            return function(v)

        return call

    def resolvent(alpha: float) -> Callable[..., Tensor]:
        calls["factorised"] += 1
        return counting("resolvent", factorise(alpha))

    linear = counting("linear", case.problem.linear)
    problem = replace(case.problem, linear=linear, resolvent=resolvent)
    found = solve(problem, solver, case.start).check()
    steps, reflects = int(found.steps), not isinstance(solver, ForwardBackward)
    assert found.checks == 2  # what bounds the answer's error
    assert calls["linear"] == steps + 1 + 2 and calls["resolvent"] == steps * reflects
    assert calls["factorised"] == int(reflects)
    assert int(found.evals) + 2 == calls["linear"] + calls["resolvent"]


@every_splitting
def test_the_value_of_the_map_is_evaluated_and_not_inferred(
    solver: Solver[Equilibrium, Any],
) -> None:
    # What certifies an answer bounds the rounding of f(z) as relu(W z + x) is computed.
    case = known(monotone(0.5))
    state = solver.init(case.problem, case.start)
    for _ in range(5):
        assert torch.equal(state.fz, case.problem(state.z))
        state = solver.step(case.problem, state)


@every_splitting
@given(m=st.floats(0.05, 1.0), seed=st.integers(0, 99), tries=st.integers(0, 30))
def test_the_error_of_an_answer_is_below_its_bound_however_early_the_solver_stopped(
    solver: Solver[Equilibrium, Any], m: float, seed: int, tries: int
) -> None:
    case = known(monotone(m, seed=seed), seed=seed)
    found = solve(case.problem, replace(solver, max_steps=tries), case.start)
    assert found.bound is not None and found.bound.norm == 2 and found.bound.contraction is None
    error, bound = (found.value - case.answer).norm(dim=1), found.bound.posterior
    assert bool((error <= bound + 1e-13).all()) and bool(found.bound.prior.isinf().all())
    least, norm = case.problem.moduli() if case.problem.moduli else (0, 0)
    # ||f - z|| <= l ||z - z*||, and the bound is at most 1 + ||W|| / m of that.
    assert bool((bound <= norm * (1 + (1 + norm) / least) * error + 1e-12).all())


def test_the_error_is_bounded_in_the_metric_of_the_moduli() -> None:
    # In the metric diag(1, 100) W is half a turn, and I - W >= I; in the Euclidean one it is not.
    w = torch.tensor([[0.0, -5.0], [0.05, 0.0]], dtype=DOUBLE)
    metric = torch.tensor([1.0, 100.0], dtype=DOUBLE)
    answer = torch.tensor([[3.0, 0.5], [0.2, 1.0]], dtype=DOUBLE)
    problem = inclusion(w, answer - answer @ w.mT, metric=metric, moduli=lambda: (1.0, 1.25**0.5))
    found = solve(problem, PeacemanRachford(max_steps=2, rtol=1e-15), torch.zeros_like(answer))
    error = (metric * (found.value - answer).square()).sum(1).sqrt()
    assert found.bound is not None and found.bound.metric is metric
    assert bool((error <= found.bound.posterior).all())
    assert bool((found.bound.posterior <= 3 * error).all())


def test_a_step_that_was_given_bounds_no_error() -> None:
    case = known(monotone(0.5))
    for solver in (PeacemanRachford(step_size=0.5), Picard(max_steps=1)):
        assert solve(case.problem, solver, case.start).bound is None


def test_the_bound_answers_to_its_old_name_with_a_warning() -> None:
    case = known(monotone(0.5))
    found = solve(case.problem, PeacemanRachford(max_steps=3), case.start)
    assert found.bound is not None
    with pytest.warns(DeprecationWarning, match=r"Solution\.bound\.posterior"):
        assert found.error is found.bound.posterior


@every_splitting
def test_sample_does_not_see_its_batch_mates(solver: Solver[Equilibrium, Any]) -> None:
    case = known(monotone(0.3), batch=5)
    scale = torch.tensor([1e-3, 1, 1e3, 1, 10], dtype=DOUBLE)[:, None]
    problem, start = replace(case.problem, condition=(case.problem.x * scale,)), case.start + 1
    together = solve(problem, solver, start).check()
    assert len(set(together.steps.tolist())) > 1  # so that the batch was compacted
    for k in range(5):
        row = torch.tensor([k])
        alone = solve(problem.rows(row), solver, start[row])
        assert alone.steps.tolist() == together.steps[row].tolist()
        assert alone.evals.tolist() == together.evals[row].tolist()
        torch.testing.assert_close(alone.value, together.value[row], rtol=1e-12, atol=1e-12)


@every_splitting
def test_a_start_at_the_answer_stays(solver: Solver[Equilibrium, Any]) -> None:
    case = known(monotone(0.3))
    assert solve(case.problem, solver, case.answer).steps.tolist() == [0, 0, 0]
    state = solver.step(case.problem, solver.init(case.problem, case.answer))
    torch.testing.assert_close(state.z, case.answer, rtol=1e-12, atol=1e-12)


def test_other_solvers_take_the_inclusion_as_an_equilibrium() -> None:
    case = known(monotone(0.5))
    ladder = Then(Picard(max_steps=1), PeacemanRachford(rtol=1e-9))
    for solver in (Anderson(rtol=1e-9), ladder):
        found = solve(case.problem, solver, case.start).check()
        torch.testing.assert_close(found.value, case.answer, rtol=1e-6, atol=1e-6)


@every_splitting
def test_an_equation_without_the_structure_is_refused(solver: Solver[Equilibrium, Any]) -> None:
    start = torch.zeros(2, 3, dtype=DOUBLE)
    with pytest.raises(TypeError, match="answers a MonotoneInclusion.*got Equilibrium"):
        solve(Equilibrium(torch.tanh, (start,)), solver, start)


def test_what_a_problem_lacks_is_named() -> None:
    w, start = monotone(0.5, 3), torch.zeros(2, 3, dtype=DOUBLE)
    bare = inclusion(w, start, resolvent=None, moduli=None)
    with pytest.raises(TypeError, match="needs a problem with a resolvent"):
        solve(bare, PeacemanRachford(step_size=1.0), start)
    with pytest.raises(ValueError, match="carries none. Give step_size"):
        solve(bare, ForwardBackward(), start)
    assert bool(solve(bare, ForwardBackward(step_size=0.1), start).converged.all())
    with pytest.raises(ValueError, match="not known to be monotone"):
        solve(inclusion(3 * torch.eye(3, dtype=DOUBLE), start), ForwardBackward(), start)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="step_size must be above 0"):
            ForwardBackward(step_size=wrong)
    with pytest.raises(TypeError, match="needs linear="):
        MonotoneInclusion(condition=(start,))
    with pytest.raises(ValueError, match=r"needs condition=\(x,\)"):
        MonotoneInclusion(linear=lambda z: z)
    with pytest.raises(ValueError, match="each row by itself; leave coupled"):
        MonotoneInclusion(linear=lambda z: z, condition=(start,), coupled=True)


@every_splitting
def test_an_answer_is_differentiated_by_the_splitting_that_solves_it(
    solver: Solver[Equilibrium, Any],
) -> None:
    case = known(monotone(0.5, twist=1.0), batch=4)
    w, x = case.w.clone().requires_grad_(), case.problem.x.clone().requires_grad_()
    assert float(torch.linalg.matrix_norm(case.w, 2)) > 2  # u <- J^T u + v need not contract
    problem = inclusion(w, x)
    weights = normal(9, *case.answer.shape)
    z = Implicit(solver).apply(problem, SPLITTINGS[1], case.start).value
    found = torch.autograd.grad((weights * z).sum(), (w, x))
    on = (case.answer > 0).double()
    eye = torch.eye(len(w), dtype=DOUBLE)
    # u = (I - D W)^-T v of each sample; dL/dx = D u and dL/dW = sum D u z^T.
    u = on * torch.stack([torch.linalg.solve((eye - d[:, None] * case.w).mT, v)
                          for d, v in zip(on, weights, strict=True)])  # fmt: skip
    # The residual 1e-10 is to be multiplied by (1 + ||I - W||) / m < 50.
    torch.testing.assert_close(found, (u.mT @ case.answer, u), rtol=5e-8, atol=5e-8)


def test_a_gradient_by_a_splitting_has_a_second_derivative() -> None:
    w, x = monotone(0.5, n=4), normal(3, 2, 4)
    tight = PeacemanRachford(rtol=1e-13, max_steps=2000)

    def answer(w: Tensor, x: Tensor) -> Tensor:
        return Implicit(tight).apply(inclusion(w, x), tight, torch.zeros_like(x)).value

    inputs = (w.requires_grad_(), x.requires_grad_())
    assert torch.autograd.gradcheck(answer, inputs)
    assert torch.autograd.gradgradcheck(answer, inputs)


def test_a_gradient_by_a_splitting_is_refused_where_there_is_no_inclusion() -> None:
    x = normal(0, 2, 4).requires_grad_()
    rule = Implicit(PeacemanRachford())
    plain = Equilibrium(lambda z, x: 0.5 * torch.tanh(z) + x, (x,))
    with pytest.raises(TypeError, match="PeacemanRachford answers a MonotoneInclusion"):
        rule.apply(plain, Picard(), torch.zeros_like(x))

    def turn(v: torch.Tensor) -> torch.Tensor:
        return torch.relu(v).flip(1)  # each entry is kept or not, and put elsewhere

    # A ball is no box: its projection moves one entry by another.
    ball = MonotoneInclusion(
        condition=(x,),
        linear=lambda z: 0.5 * z,
        resolvent=lambda alpha: lambda v: v / (1 + 0.5 * alpha),
        prox=lambda v: v / v.norm(dim=1, keepdim=True).clamp_min(1),
        moduli=lambda: (0.5, 0.5),
    )
    turned = replace(ball, map=Projected(ball.linear, turn), prox=turn)
    for other in (ball, turned):
        with pytest.raises(ValueError, match="does not clamp entry by entry"):
            rule.apply(other, PeacemanRachford(), torch.zeros_like(x)).value.sum().backward()


@pytest.mark.parametrize("solver", ACCELERATED, ids=lambda s: type(s).__name__)
def test_accelerated_reflections_find_the_answer_in_a_fifth_of_the_steps(
    solver: PeacemanRachford | DouglasRachford,
) -> None:
    w = torch.diag(torch.tensor([0.5] * 7 + [-150.0], dtype=DOUBLE)) + 0.1 * normal(1, 8, 8)
    case = known(w, batch=5)
    fixed = replace(solver, step_size=1.0)
    fast = solve(case.problem, fixed, case.start)
    slow = solve(case.problem, replace(fixed, accelerated=None), case.start)
    assert bool(fast.converged.all()) and bool((fast.value - case.answer).norm() <= 1e-8)
    assert int(fast.steps.max()) * 5 < int(slow.steps.max())
    for k in range(5):  # and whether its mates have finished does not matter to a sample
        index = torch.tensor([k])
        alone = solve(case.problem.rows(index), fixed, case.start[index])
        assert int(alone.steps) == int(fast.steps[k])
        torch.testing.assert_close(alone.value[0], fast.value[k], rtol=0, atol=1e-9)


def test_gradients_by_accelerated_reflections_are_exact() -> None:
    w = monotone(0.3)
    x = normal(5, 3, 8).requires_grad_()
    solver = PeacemanRachford(rtol=1e-12, max_steps=2000, accelerated=Anderson())
    weights = normal(9, 3, 8)
    found = []
    for rule in (Implicit(solver), Unroll()):
        value = rule.apply(inclusion(w, x), solver, torch.zeros(3, 8, dtype=DOUBLE)).value
        found += torch.autograd.grad((value * weights).sum(), x)
    plain = replace(solver, accelerated=None)
    value = Implicit(plain).apply(inclusion(w, x), plain, torch.zeros(3, 8, dtype=DOUBLE)).value
    (exact,) = torch.autograd.grad((value * weights).sum(), x)
    torch.testing.assert_close(found[0], exact, rtol=0, atol=1e-9)
    torch.testing.assert_close(found[1], exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("solver", [PeacemanRachford, DouglasRachford])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_projection_may_return_another_precision(solver: Any, dtype: torch.dtype) -> None:
    x = normal(0, 3, 6).float()
    problem = MonotoneInclusion(
        condition=(x,),
        linear=lambda z: 0.5 * z,
        resolvent=lambda alpha: lambda v: v / (1 + 0.5 * alpha),
        prox=lambda v: torch.relu(v).to(dtype),
        moduli=lambda: (0.5, 0.5),
    )
    found = solve(problem, solver(rtol=1e-2), torch.zeros_like(x)).check()
    assert found.value.dtype == x.dtype
    # z = relu(z / 2 + x) is 2 relu(x); 1 / (1 - 1/2) times the tolerance, or eps of bfloat16.
    torch.testing.assert_close(found.value, 2 * torch.relu(x), rtol=0.05, atol=0.05)
