"""Warnings point at the line of the user's that led to them, however deep the library was."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn

from homotopy_deq import Anderson, ConvergenceWarning, Implicit, ImplicitLayer, Picard
from solvers import ODE, InitialValue, solve
from solvers.gradient.rows import BackwardWarning


class Linear(nn.Module):
    """f(z, x) = 0.9 z + x."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.9))

    def forward(self, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.gain * z + x


def told(call: Callable[[], object]) -> tuple[type[Warning], str, int]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (only,) = caught
    return only.category, only.filename, only.lineno


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_sample_that_did_not_converge_points_at_the_call_of_the_model(depth: int) -> None:
    model: nn.Module = ImplicitLayer(Linear(), Picard(max_steps=2))
    for _ in range(depth):
        model = nn.Sequential(model)

    def user() -> None:
        model(torch.ones(2, 3))

    wanted = (ConvergenceWarning, __file__, user.__code__.co_firstlineno + 1)
    assert told(user) == wanted


def test_an_approximate_gradient_points_at_the_call_of_backward() -> None:
    model = ImplicitLayer(Linear(), Anderson(), Implicit(Picard(max_steps=2)))
    loss = model(torch.ones(2, 3)).sum()

    def user() -> None:
        loss.backward()

    assert told(user) == (BackwardWarning, __file__, user.__code__.co_firstlineno + 1)


def test_a_batch_too_large_for_scipys_jacobian_is_refused() -> None:
    problem = InitialValue(lambda t, z: -z)
    with pytest.raises(ValueError, match=r"needs 128\.0 GiB: use batches of at most 11,000"):
        solve(problem, ODE("scipy_solver"), torch.ones(256, 512))
