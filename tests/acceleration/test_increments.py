"""Solves in half precision around anchors in single precision."""

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ImplicitLayer
from homotopy_deq.acceleration import Anchored, Convolution, Half, Simulated, delta
from homotopy_deq.cells import DenseCell
from solvers import Anderson, Equilibrium, Picard, Status, solve

RTOL = 1e-5


class Images(nn.Module):
    """tanh(V relu(W z) + x), both convolutions."""

    rowwise = True

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        return (x,)

    def initial(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return (self.second(self.first(z).relu()) + x).tanh()


def dense(gain: float = 0.45) -> tuple[ImplicitLayer, Tensor]:
    cell = DenseCell(5, 96, gain=gain)
    return ImplicitLayer(cell, Picard(rtol=RTOL, max_steps=500)), torch.randn(9, 5)


def images() -> tuple[ImplicitLayer, Tensor]:
    return ImplicitLayer(Images(), Picard(rtol=RTOL)), torch.randn(4, 3, 8, 8)


def residual(layer: ImplicitLayer, z: Tensor, x: Tensor) -> Tensor:
    """Measure ||f(z) - z|| / ||f(z)|| of the cell itself, (B,)."""
    fz = layer.cell(z, *layer.cell.condition(x))
    return (fz - z).flatten(1).norm(dim=1) / fz.flatten(1).norm(dim=1)


@pytest.mark.parametrize("inner", [Picard(), Anderson()])
@pytest.mark.parametrize("make", [dense, images])
@torch.no_grad()
def test_increments_in_half_precision_reach_the_tolerance_of_single_precision(
    make: object, inner: object
) -> None:
    layer, x = make()  # type: ignore[operator]
    anchored = delta(layer, solver=Anchored(rtol=RTOL, inner=inner), products=Half())
    found = anchored.solve(x)
    assert found.converged.all()
    # The layer says what it measured on these rows; another order of sums moves it by some eps.
    assert (residual(layer, found.value, x) <= RTOL + 64 * torch.finfo(torch.float32).eps).all()
    assert (found.steps >= 2).all()  # half precision alone does not get there


@torch.no_grad()
def test_half_precision_without_anchors_does_not_reach_it() -> None:
    layer, x = dense()
    low = layer.cell.recurrent.weight.bfloat16().T
    condition = layer.cell.condition(x)[1]
    problem = Equilibrium(lambda z, c: (z.bfloat16() @ low).float().add(c).tanh(), (condition,))
    z = solve(problem, Picard(rtol=RTOL, max_steps=100), torch.zeros(9, 96)).value
    assert (residual(layer, z, x) > 10 * RTOL).all()


@torch.no_grad()
def test_a_sample_anchors_by_itself() -> None:
    layer, x = dense()
    x = x * torch.logspace(-2, 1, 9)[:, None]
    anchored = delta(layer, solver=Anchored(rtol=RTOL), products=Half())
    together = anchored.solve(x)
    for k in range(9):
        alone = anchored.solve(x[k : k + 1])
        assert int(alone.steps) == int(together.steps[k])
        # Both are within the tolerance of the equilibrium, over 1 minus the rate (.9 at worst).
        gap = (alone.value[0] - together.value[k]).norm() / alone.value[0].norm()
        assert gap <= 2 * 10 * RTOL


@torch.no_grad()
def test_with_exact_products_one_anchor_is_one_solve_of_the_equation_itself() -> None:
    layer, x = dense()
    layer, x = layer.double(), x.double()
    anchored = delta(
        layer, solver=Anchored(rtol=1e-12, share=1e-13, inner_steps=500), products=Simulated()
    )
    found = anchored.solve(x)
    exact = layer.with_solver(Picard(rtol=1e-14, max_steps=1000)).solve(x).value
    assert (found.steps == 1).all() and found.converged.all()
    assert (found.value - exact).norm(dim=1).max() <= 1e-10 * exact.norm(dim=1).max()


@torch.no_grad()
def test_evaluations_are_counted_at_anchors_and_around_them() -> None:
    layer, x = dense()
    counts = []
    hook = layer.cell.register_forward_hook(lambda *_: counts.append(1))
    found = delta(layer, solver=Anchored(rtol=RTOL), products=Simulated()).solve(x[:1])
    hook.remove()
    assert counts  # the user's own map judged the answer
    alone = layer.solve(x[:1])
    assert int(alone.evals) <= int(found.evals) <= int(alone.evals) + 3 * (1 + int(found.steps))


@torch.no_grad()
def test_a_map_without_an_equilibrium_nearby_is_not_said_to_converge() -> None:
    cell = DenseCell(5, 32)
    cell.recurrent.weight.copy_(-4 * torch.eye(32))
    layer = ImplicitLayer(cell, Picard(), on_failure="ignore")
    anchored = delta(layer, solver=Anchored(max_steps=3, inner_steps=20), products=Half())
    found = anchored.solve(torch.randn(3, 5))
    assert (found.status == Status.MAX_STEPS).all()
    lost = anchored.solve(torch.full((2, 5), float("nan")))
    assert (lost.status == Status.NONFINITE).all()


def test_a_map_that_brings_nothing_up_to_date_is_refused() -> None:
    with pytest.raises(ValueError, match="products=Half"):
        solve(Equilibrium(torch.cos), Anchored(), torch.zeros(2, 3))


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="share"):
        Anchored(share=1.0)
    with pytest.raises(TypeError, match="Picard"):
        Anchored(inner=Picard)  # type: ignore[arg-type]


def test_the_gradient_is_that_of_the_exact_equation() -> None:
    layer, x = dense()
    x.requires_grad_()
    weight = layer.cell.recurrent.weight
    exact = torch.autograd.grad(layer(x).sum(), (weight, x))
    anchored = delta(layer, solver=Anchored(rtol=RTOL), products=Half())
    found = torch.autograd.grad(anchored(x).sum(), (weight, x))
    for a, b in zip(exact, found, strict=True):
        # Both at the tolerances of their forward and backward solves, over 1 minus the rate.
        assert (a - b).norm() <= 5e-3 * a.norm()


@pytest.mark.parametrize("kind", ["matrix", "convolution"])
def test_a_change_in_half_precision_errs_by_its_own_size_alone(kind: str) -> None:
    if kind == "matrix":
        weight = torch.randn(40, 60)
        product, r = Half().linear(weight), torch.randn(7, 60)
    else:
        weight = torch.randn(6, 5, 3, 3)
        product = Half().convolution(Convolution(weight, padding=(1, 1, 1, 1)))
        r = torch.randn(2, 5, 8, 8)
    y, e = product.dense(r), 1e-3 * torch.randn_like(r)
    new, work = product.moved(y, r, r + e)
    gap = (new.double() - product.dense(r + e).double()).abs().max()
    # W and e are rounded to 8 bits, and so is the result: 3 x 2^-9 of sums of |W e|.
    size = float(weight.flatten(1).norm(dim=1).max() * e.flatten(1).norm(dim=1).max())
    assert 0 < gap <= 3 * 2**-9 * size and work == product.multiply_adds(r)
