from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from solvers import (
    ODE,
    RK4,
    Adjoint,
    InitialValue,
    RungeKutta,
    SolveError,
    Tableau,
    Unroll,
)
from tests.problems import DOUBLE, normal

from .tableaus import FIXED, PAIRS, every_tableau


def gradients(
    problem: InitialValue, solver: RungeKutta | ODE, inputs: tuple[Tensor, ...]
) -> list[Tensor]:
    found = Unroll().apply(problem, solver, inputs[0]).check()
    weights = normal(9, *found.value.shape)
    return [*torch.autograd.grad((weights * found.value).sum(), inputs)]


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "dopri8", "euler", "midpoint", "heun2"])
def test_gradient_of_the_steps_is_that_of_torchdiffeq(name: str) -> None:
    """In the start, the condition and a weight that the field closes over."""
    tableau = {t.name: t for t in (*PAIRS, *FIXED)}[name.rstrip("2")]
    w, x, start = (normal(k, *s).requires_grad_() for k, s in enumerate([(4, 4), (3, 4), (3, 4)]))
    problem = InitialValue(
        lambda t, z, x: torch.tanh(z @ w.T + x) * torch.cos(t) - z, condition=(x,)
    )
    ours = gradients(problem, RungeKutta(tableau, rtol=1e-9, atol=1e-9), (start, x, w))
    # Equal steps give the same sums; those of a pair are right to their tolerance. torchdiffeq
    # interpolates to t1, by 1e-6 with its bosh3 and dopri8, so that dopri5 speaks for them.
    oracle, tolerance = ODE(name), 1e-12
    if tableau.error:
        oracle, tolerance = ODE("dopri5", rtol=1e-12, atol=1e-12), 1e-7
    theirs = gradients(problem, oracle, (start, x, w))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance)


@every_tableau
def test_gradient_is_that_of_what_was_computed_to_second_order(tableau: Tableau) -> None:
    rate = torch.tensor([[-1.0], [-2.0]], dtype=DOUBLE, requires_grad=True)
    start = normal(3, 2, 2).requires_grad_()

    def answer(rate: Tensor, start: Tensor) -> Tensor:
        method = RungeKutta(tableau, rtol=1e-2, atol=1e-2, step_size=0.5)
        problem = InitialValue(lambda t, z, r: torch.sin(r * z), condition=(rate,))
        return Unroll().apply(problem, method, start).value

    # A pair's steps are constants, and its first moves with z0: equal steps alone are checked.
    if not tableau.error:
        assert torch.autograd.gradcheck(answer, (rate, start))
        assert torch.autograd.gradgradcheck(answer, (rate, start))
    else:
        (first,) = torch.autograd.grad(answer(rate, start).sum(), rate, create_graph=True)
        assert torch.autograd.grad(first.sum(), rate)[0].ne(0).all()


def test_rejected_step_that_is_not_a_number_leaves_the_gradient_finite() -> None:
    """z' = -sqrt(z - 1/2): a first step of 100 h0 oversteps 1/2 in one sample of the two."""
    weight = torch.ones((), dtype=DOUBLE, requires_grad=True)
    level = torch.tensor([[0.9], [-50.0]], dtype=DOUBLE)
    problem = InitialValue(
        lambda t, z, a: -weight * torch.where(a > 0, torch.sqrt(z - a), 0.1 * z), 0.0, 0.5,
        condition=(level,),
    )  # fmt: skip
    start = torch.ones(2, 1, dtype=DOUBLE)
    found = Unroll().apply(problem, RungeKutta(rtol=1e-6, atol=1e-6), start).check()
    (gradient,) = torch.autograd.grad(found.value.sum(), weight)
    # z = a + (sqrt(1 - a) - w t / 2)^2 and z = e^(-0.1 w t).
    exact = -(math.sqrt(0.1) - 0.25) * 0.5 - 0.05 * math.exp(-0.05)
    assert float(gradient) == pytest.approx(exact, rel=1e-4)


def test_non_finite_sample_is_refused_under_unroll() -> None:
    rate = torch.tensor([[1.0], [float("nan")]], requires_grad=True)
    with pytest.raises(SolveError):
        Unroll().apply(
            InitialValue(lambda t, z, r: r * z, condition=(rate,)), RungeKutta(), torch.ones(2, 1)
        )


def test_sums_of_slopes_keep_nothing_for_backward() -> None:
    """A field that saves nothing leaves nothing of the state's size, whatever its steps."""
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    start = torch.ones(2, 100, dtype=DOUBLE, requires_grad=True)
    method = RungeKutta(RK4)
    problem = InitialValue(lambda t, z: 2 * z)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        state = method.init(problem, start)
        for _ in range(10):
            state = method.step(problem, state)
    assert state.z.requires_grad and max(kept, default=0) <= 2


def test_adjoint_of_steps_that_are_ours_is_refused_with_what_fits() -> None:
    problem = InitialValue(lambda t, z: -z)
    with pytest.raises(TypeError, match=r"InitialValue and RungeKutta. Use Unroll\(\)"):
        Adjoint().apply(problem, RungeKutta(), torch.ones(2, 1))  # type: ignore[arg-type]
