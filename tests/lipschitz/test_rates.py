"""How fast splittings solve bounded networks, forward and backward, in the metric of the form."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from experiments.lben_rates import predicted
from homotopy_deq.lipschitz import LBEN, EquilibriumNetwork, Form, to_lben
from solvers import (
    DouglasRachford,
    ForwardBackward,
    MonotoneInclusion,
    PeacemanRachford,
    Picard,
    solve,
)
from tests.problems import DOUBLE, normal

from .nets import batch, stack

Splitting = ForwardBackward | PeacemanRachford | DouglasRachford
KINDS: list[type[Splitting]] = [ForwardBackward, PeacemanRachford, DouglasRachford]


@dataclass(frozen=True)
class Solved:
    """An inclusion whose answer was chosen first, and the metric in which its rates hold.

    Arguments:
        problem: z = P(A z + x).
        answer: z*, (B, n).
        normal: A z* + x - z*, which is normal to P's set at z*, (B, n).
        metric: (n,).
    """

    problem: MonotoneInclusion
    answer: Tensor
    normal: Tensor
    metric: Tensor

    def error(self, kind: type[Splitting], state: object, alpha: float) -> Tensor:
        """Return how far what the solver moves is from rest, (B,)."""
        if kind is ForwardBackward:
            return self.size(state.z - self.answer)  # type: ignore[attr-defined]
        return self.size(state.u - self.answer - alpha * self.normal)  # type: ignore[attr-defined]

    def size(self, z: Tensor) -> Tensor:
        size: Tensor = (self.metric * z.square()).sum(1).sqrt()
        return size


def network(seed: int, hidden: int = 8) -> Form:
    """An LBEN whose metric is far from the identity."""
    torch.manual_seed(seed)
    made = LBEN(4, hidden, 3, gamma=2.0, epsilon=0.05).double()
    with torch.no_grad():
        made.cell.psi.normal_(std=0.7)  # type: ignore[union-attr, operator]
    return made.form()


def posed(w: Tensor, form: Form, metric: Tensor, answer: Tensor, beyond: Tensor, prox: object
          ) -> Solved:  # fmt: skip
    """Pose the inclusion of W, with the moduli that the form promises, for a chosen answer."""
    eye = torch.eye(len(w), dtype=w.dtype)

    def resolvent(alpha: float) -> object:
        inverse = torch.linalg.inv((1 + alpha) * eye - alpha * w)
        return lambda v: v @ inverse.mT

    problem = MonotoneInclusion(
        condition=(answer + beyond - answer @ w.mT,),
        linear=lambda z: z @ w.mT,
        resolvent=resolvent,  # type: ignore[arg-type]
        prox=prox,  # type: ignore[arg-type]
        moduli=form.moduli,
        metric=metric,
    )
    return Solved(problem, answer, beyond, metric)


def forward(seed: int) -> Solved:
    """z = relu(W z + x)."""
    form = network(seed)
    signed = normal(seed, 3, len(form.b)) + 0.3
    return posed(form.w[0], form, form.metric, signed.relu(), -(-signed).relu(), torch.relu)


def backward(seed: int) -> Solved:
    """u = J (W^T u + g): J keeps the neurons that are on, which is a projection."""
    form = network(seed)
    on = (normal(seed, 1, len(form.b)) > -0.3).to(DOUBLE)  # of all rows, which the solver picks
    free = normal(seed + 1, 3, len(form.b))
    return posed(form.w[0].mT, form, 1 / form.metric, on * free, (1 - on) * free, lambda v: on * v)


def measured(case: Solved, kind: type[Splitting], alpha: float) -> Tensor:
    """Return by what the error of each of 25 steps is multiplied, (25, B)."""
    solver, ratios = kind(step_size=alpha), []
    state = solver.init(case.problem, torch.zeros_like(case.answer))
    was = case.error(kind, state, alpha)
    for _ in range(25):
        state = solver.step(case.problem, state)  # type: ignore[arg-type]
        now = case.error(kind, state, alpha)
        ratios.append(torch.where(was > 1e-8, now / was, 0.0))
        was = now
    return torch.stack(ratios)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pose", [forward, backward])
@given(seed=st.integers(0, 999), factor=st.sampled_from([0.3, 1.0, 1.7]))
def test_no_step_contracts_less_than_predicted_in_the_metric(
    kind: type[Splitting], pose: object, seed: int, factor: float
) -> None:
    case: Solved = pose(seed)  # type: ignore[operator]
    assert case.problem.moduli is not None
    m, norm = case.problem.moduli()
    alpha = factor * kind().best(m, norm)
    # Errors above 1e-8 carry roundings of at most 1e-14.
    assert float(measured(case, kind, alpha).max()) <= predicted(kind, alpha, m, norm) + 1e-5


def test_the_rate_is_that_of_the_metric_and_no_other() -> None:
    # In the metric diag(1, 100) W is half a turn; in the Euclidean one it stretches five times.
    w = torch.tensor([[0.0, -5.0], [0.05, 0.0]], dtype=DOUBLE)
    metric, one = torch.tensor([1.0, 100.0], dtype=DOUBLE), torch.ones(1, 2, dtype=DOUBLE)
    form = Form(w[None], w[None], w[None], 0 * w[None], metric, metric, metric, 1.0, metric < 0)
    case = posed(w, form, metric, one, 0 * one, torch.relu)
    m, norm = form.moduli()
    assert (m, norm) == pytest.approx((1.0, math.sqrt(1.25)))
    for kind in KINDS:
        alpha = kind().best(m, norm)
        here = float(measured(case, kind, alpha).max())
        plain = float(measured(replace(case, metric=one[0]), kind, alpha).max())
        assert here <= predicted(kind, alpha, m, norm) + 1e-5 < plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pose", [forward, backward])
def test_an_answer_is_within_its_bound_forward_and_backward(
    kind: type[Splitting], pose: object
) -> None:
    for seed, tries in enumerate((0, 1, 3, 10, 100)):
        case: Solved = pose(seed)  # type: ignore[operator]
        solver = kind(max_steps=tries, rtol=1e-10)
        found = solve(case.problem, solver, torch.zeros_like(case.answer))
        assert found.bound is not None
        bound = found.bound.posterior + 1e-13
        assert bool((case.size(found.value - case.answer) <= bound).all())


@pytest.mark.parametrize("depth", range(1, 7))
def test_picard_is_exact_in_depth_and_one_steps_on_a_triangular_weight(depth: int) -> None:
    kinds = ["sll", "sandwich", "aol", "cpl", "sandwich", "aol"][:depth]
    explicit = stack(kinds, [4] * (depth + 1), None, depth)
    lben = to_lben(explicit)
    assert isinstance(lben, EquilibriumNetwork)
    x = batch(explicit)
    # The neurons that carry x past a residual layer are a layer of their own.
    carried = 1 + int(kinds[0] in ("sll", "cpl") or "sll" in kinds or "cpl" in kinds)
    for solver in (Picard(rtol=1e-14), PeacemanRachford(step_size=1.0, rtol=1e-14)):
        found = lben.layer.with_solver(solver).solve(x).check()
        assert int(found.steps.max()) <= depth + carried
        assert (lben.cell.read(found.value) - explicit(x)).abs().amax() < 1e-12
