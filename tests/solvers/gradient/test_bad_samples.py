"""What one bad sample, or a changed output, may do to the gradient of the others: nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ImplicitLayer
from solvers import (
    ODE,
    Anderson,
    Equilibrium,
    Implicit,
    InitialValue,
    Phantom,
    Picard,
    Status,
    Unroll,
    solve,
)

DOUBLE = torch.float64


def test_sample_that_finished_at_an_unstable_root_does_not_spoil_an_unrolled_gradient() -> None:
    # z <- p z^2 from 1.00005 is within 1e-4 of its root 1, and explodes if it is iterated on.
    p = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)

    def square_or_slow(z: Tensor, slow: Tensor) -> Tensor:
        return torch.where(slow > 0, 0.95 * z + 1, p * z * z)

    slow = torch.ones(8, 1, dtype=DOUBLE)
    slow[0] = 0
    z0 = torch.full((8, 1), 1.00005, dtype=DOUBLE)
    given = Equilibrium(square_or_slow, (slow,))
    closed = Equilibrium(lambda z: square_or_slow(z, slow))
    for problem in (given, closed):
        found = Unroll().apply(problem, Picard(), z0)
        assert found.converged.all()
        (gradient,) = torch.autograd.grad(found.value.sum(), p)
        assert torch.isfinite(gradient)


def test_phantom_is_finite_where_its_steps_would_explode() -> None:
    p = torch.tensor(1.0, dtype=DOUBLE, requires_grad=True)
    z0 = torch.tensor([[0.1], [30.0]], dtype=DOUBLE)
    problem = Equilibrium(lambda z: p * z**3 + 0.1)
    found = Phantom(steps=5).apply(problem, Picard(), z0)
    assert found.status.tolist() == [Status.CONVERGED, Status.NONFINITE]
    assert found.value[1] == 30.0
    found.value[0].sum().backward()
    assert p.grad is not None and torch.isfinite(p.grad)


def test_output_of_a_layer_may_be_changed_in_place() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(0.1 * torch.ones(3, 3, dtype=DOUBLE))

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return torch.tanh(z @ self.weight + x)

    x = torch.linspace(-1, 1, 6, dtype=DOUBLE).view(2, 3)
    gradients = []
    for inplace in (False, True):
        torch.manual_seed(0)
        cell = Cell()
        layer = ImplicitLayer(cell, Anderson(rtol=1e-10), Implicit(Anderson(rtol=1e-10)))
        nn.Sequential(layer, nn.ReLU(inplace=inplace))(x).sum().backward()
        assert cell.weight.grad is not None
        gradients.append(cell.weight.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_assertion_of_the_users_field_is_not_taken_for_a_failed_integration() -> None:
    def field(t: Tensor, z: Tensor, x: Tensor) -> Tensor:
        assert z.shape[1] == 7, "seven columns"
        return -z

    problem = InitialValue(field, condition=(torch.zeros(2, 3),))
    with pytest.raises(AssertionError, match="seven columns"):
        solve(problem, ODE(), torch.zeros(2, 3))


def test_damping_of_anderson_damps_every_step() -> None:
    # f' = -6 cosh z: undamped steps diverge, damped ones by .1 contract.
    problem = Equilibrium(lambda z, x: -6 * torch.sinh(z) + x, (torch.linspace(-2, 2, 8)[:, None],))
    found = solve(problem, Anderson(damping=0.1), torch.zeros(8, 1))
    assert found.converged.all()


def test_half_precision_state_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="autocast"):
        solve(Equilibrium(lambda z: z / 2), Anderson(), torch.zeros(2, 3, dtype=torch.bfloat16))
