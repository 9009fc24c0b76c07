from __future__ import annotations

import pytest
import torch
from torch import Tensor

from homotopy_deq import Anderson, ImplicitLayer
from homotopy_deq.cells import ConvCell, DenseCell
from homotopy_deq.regularization import jacobian_penalty, relative_residual, residual_penalty


def dense_jacobians(cell: torch.nn.Module, z: Tensor, x: Tensor) -> Tensor:
    """The Jacobian of each sample, (B, n, n)."""
    rows = [
        torch.func.jacrev(lambda row, i=i: cell(row[None], x[i : i + 1])[0])(z[i])
        for i in range(len(z))
    ]
    return torch.stack([j.reshape(z[0].numel(), z[0].numel()) for j in rows])


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_jacobian_penalty_is_the_frobenius_norm_on_average(kind: str) -> None:
    if kind == "dense":
        cell, z, x = DenseCell(3, 5).double(), torch.randn(2, 5), torch.randn(2, 3)
    else:
        cell, z, x = ConvCell(2, groups=1).double(), *torch.randn(2, 2, 2, 2, 3)
    z, x = z.double(), x.double()
    n = z[0].numel()
    wanted = dense_jacobians(cell, z, x).square().sum((1, 2)).mean() / n
    generator = torch.Generator().manual_seed(0)
    found = jacobian_penalty(cell, z, x, samples=3000, generator=generator)
    # One draw's standard deviation is below the mean, so 4 of them in 3,000 draws are 7%.
    assert found.item() == pytest.approx(wanted.item(), rel=0.07)


def test_jacobian_penalty_is_exact_where_the_jacobian_is_diagonal() -> None:
    slopes = torch.tensor([[0.5, -2.0, 1.0]])
    z = torch.randn(4, 3)
    found = jacobian_penalty(lambda z: z * slopes, z)
    assert float(found) == pytest.approx(5.25 / 3)  # every sign squares to one


def test_jacobian_penalty_is_differentiable() -> None:
    cell = DenseCell(3, 4).double()
    z, x = torch.randn(2, 4).double(), torch.randn(2, 3).double()
    weight = cell.recurrent.weight.detach().requires_grad_()

    def penalty(weight: Tensor, z: Tensor, x: Tensor) -> Tensor:
        signs = torch.Generator().manual_seed(1)
        call = lambda z, x: torch.func.functional_call(  # noqa: E731
            cell, {"recurrent.weight": weight}, (z, x)
        )
        return jacobian_penalty(call, z, x, generator=signs)

    arguments = (weight, z.requires_grad_(), x.requires_grad_())
    assert torch.autograd.gradcheck(penalty, arguments)


def test_jacobian_penalty_reaches_the_weights_through_the_answer_unless_detached() -> None:
    cell = DenseCell(3, 4)
    layer, x = ImplicitLayer(cell, Anderson(rtol=1e-6)), torch.randn(2, 3)
    z = layer(x)
    found = []
    for at in (z, z.detach()):
        signs = torch.Generator().manual_seed(0)
        penalty = jacobian_penalty(cell, at, *layer.condition(x), generator=signs)
        found.append(torch.autograd.grad(penalty, cell.inject.bias, retain_graph=True)[0])
    assert not torch.allclose(*found)


def test_penalties_need_no_gradient() -> None:
    cell, z, x = DenseCell(3, 4), torch.randn(2, 4), torch.randn(2, 3)
    with torch.no_grad():
        assert not jacobian_penalty(cell, z, x).requires_grad
        assert float(jacobian_penalty(cell, z, x)) > 0
    assert not z.requires_grad


def test_residual_penalty_is_the_mean_square_of_the_relative_residual() -> None:
    z = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    f = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    residual = relative_residual(lambda z: f + 1e-3, z)
    assert residual.shape == (2,)
    assert float(residual[1]) == pytest.approx(0.5, rel=1e-2)
    x = torch.tensor([[2.0, 0.0], [4.0, 0.0]])
    found = residual_penalty(lambda z, x: x, torch.zeros(2, 2), x)
    assert float(found) == 1.0


def test_residual_penalty_vanishes_at_an_equilibrium() -> None:
    cell, x = DenseCell(3, 4).double(), torch.randn(2, 3).double()
    z = ImplicitLayer(cell, Anderson(rtol=1e-10))(x)
    assert residual_penalty(cell, z, x).item() < 1e-19  # the square of rtol, near enough


def test_no_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="samples"):
        jacobian_penalty(torch.tanh, torch.randn(2, 2), samples=0)
