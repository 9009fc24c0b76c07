from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from solvers import Anderson, Equilibrium, Implicit, Phantom, Picard, Status
from tests.problems import contractions, normal

TIGHT = Anderson(rtol=1e-13, max_steps=500)


def gradients(rule: Phantom | Implicit, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return J, the gradient in x of sum(v z*) and v, for z = A z + x."""
    a, x, v = contractions(2, 4, 0.7, seed), normal(seed + 1, 2, 4), normal(seed + 2, 2, 4)
    x.requires_grad_()
    problem = Equilibrium(lambda z, x: torch.einsum("bij,bj->bi", a, z) + x, (x,))
    value = rule.apply(problem, TIGHT, torch.zeros_like(x)).value
    return a, torch.autograd.grad(value, x, v)[0], v


@given(steps=st.integers(1, 6), damping=st.floats(0.1, 1.0), seed=st.integers(0, 99))
@settings(max_examples=15)
def test_gradient_is_the_truncated_neumann_series(steps: int, damping: float, seed: int) -> None:
    """damping * sum_{k < steps} M^k v, M = (1 - damping) I + damping J^T."""
    jacobian, got, v = gradients(Phantom(steps, damping), seed)
    term, series = v, torch.zeros_like(v)
    for _ in range(steps):
        series = series + damping * term
        pulled = torch.einsum("bij,bi->bj", jacobian, term)
        term = (1 - damping) * term + damping * pulled
    torch.testing.assert_close(got, series, rtol=1e-12, atol=1e-13)


def test_one_step_is_the_jacobian_free_gradient() -> None:
    _, got, v = gradients(Phantom())
    torch.testing.assert_close(got, v, rtol=0, atol=0)  # df/dx = I


def test_many_steps_are_the_implicit_gradient() -> None:
    _, many, _ = gradients(Phantom(steps=120))
    _, exact, _ = gradients(Implicit(TIGHT))
    # 0.7^120 = 3e-19.
    torch.testing.assert_close(many, exact, rtol=1e-11, atol=1e-11)


def test_value_is_the_root_and_not_the_end_of_the_steps() -> None:
    x = normal(0, 2, 3).requires_grad_()
    problem = Equilibrium(lambda z, x: 0.5 * z + x, (x,))
    loose = Phantom(steps=3).apply(problem, Picard(rtol=1e-1), torch.zeros_like(x))
    assert loose.residual.max() > 1e-2
    again = (problem(loose.value) - loose.value).norm(dim=1) / problem(loose.value).norm(dim=1)
    torch.testing.assert_close(again.detach(), loose.residual, rtol=1e-9, atol=1e-15)


def test_sample_without_a_number_keeps_its_start() -> None:
    x = torch.tensor([[1.0], [float("nan")]], requires_grad=True)
    found = Phantom().apply(
        Equilibrium(lambda z, x: 0.5 * z + x, (x,)), Anderson(), torch.zeros(2, 1)
    )
    assert found.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    assert torch.isfinite(found.value[0]).all()


@pytest.mark.parametrize("rule", [Phantom(1), Phantom(5, 0.5)])
def test_rules_are_frozen_settings(rule: Phantom) -> None:
    assert rule == Phantom(rule.steps, rule.damping) and hash(rule)
    with pytest.raises(AttributeError):
        rule.steps = 2  # type: ignore[misc]
