from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import ConvergenceWarning, FlowLayer, ImplicitLayer
from homotopy_deq.cells import ConvCell, DenseCell
from homotopy_deq.layers import Layer
from solvers import (
    ODE,
    Anderson,
    Broyden,
    Continuation,
    Flow,
    Implicit,
    NewtonKrylov,
    Phantom,
    Picard,
    PseudoTransient,
    SolveError,
    Solver,
    Unroll,
)

TIGHT = Anderson(rtol=1e-12)
EXACT = Implicit(Anderson(rtol=1e-12))
ROOTS: list[Solver] = [
    Anderson(),
    Broyden(),
    Continuation(),
    NewtonKrylov(),
    Picard(),
    PseudoTransient(),
    Flow(),
]


class Bare(nn.Module):
    """A cell that defines nothing but the map."""

    def __init__(self, size: int = 5, gain: float = 0.5) -> None:
        super().__init__()
        self.linear = nn.Linear(size, size)
        nn.init.orthogonal_(self.linear.weight, gain)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(z) + x)


class Exploding(nn.Module):
    """No sample of it has an equilibrium: z* = z* + 1."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return z + 1 + 0 * x


def dense(inputs: int = 3, hidden: int = 6) -> DenseCell:
    return DenseCell(inputs, hidden).double()


def exact(cell: DenseCell, z: Tensor, v: Tensor) -> dict[str, Tensor]:
    """The gradient of sum(v z*) by a linear solve with the Jacobian of each sample."""
    slope = 1 - z.square()
    eye = torch.eye(z.shape[1], dtype=z.dtype)
    jacobian = slope[:, :, None] * cell.recurrent.weight
    u = slope * torch.linalg.solve((eye - jacobian).mT, v)
    return {"x": u @ cell.inject.weight, "w": u.mT @ z, "b": u.sum(0)}


def test_gradient_is_that_of_the_exact_jacobian() -> None:
    cell, x = dense(), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    z = ImplicitLayer(cell, TIGHT, EXACT)(x)
    v = torch.randn_like(z)
    z.backward(v)
    wanted = exact(cell, z.detach(), v)
    found = {"x": x.grad, "w": cell.recurrent.weight.grad, "b": cell.inject.bias.grad}
    for name, gradient in found.items():
        # Both residuals are 1e-12, and (I - J)^-1 has norm below 10.
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-9, atol=1e-10)


def test_gradient_is_there_in_eval_mode_and_absent_under_no_grad() -> None:
    layer = ImplicitLayer(dense()).eval()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and bool((x.grad != 0).any())
    with torch.no_grad():
        assert not layer(x).requires_grad


@pytest.mark.parametrize("gradient", [Implicit(), Phantom(3), Unroll(), Unroll(checkpoint=3), None])
def test_features_made_in_inference_mode_train_a_layer_as_others_do(gradient: Any) -> None:
    cell, x = Bare(), torch.randn(3, 5)
    layer: Layer = FlowLayer(cell) if gradient is None else ImplicitLayer(cell, gradient=gradient)
    with torch.inference_mode():
        features = x * 1
    found = [torch.autograd.grad(layer(x).sum(), cell.parameters()) for x in (x, features)]
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_layer_called_twice_before_backward_has_the_gradient_of_both_calls() -> None:
    layer = ImplicitLayer(dense(), TIGHT, EXACT)
    weight = layer.cell.recurrent.weight
    x, y = torch.randn(2, 4, 3, dtype=torch.float64)
    apart = [torch.autograd.grad(layer(each).sum(), weight)[0] for each in (x, y)]
    a, b = layer(x), layer(y)
    (a.sum() + b.sum()).backward(retain_graph=True)
    torch.testing.assert_close(weight.grad, apart[0] + apart[1], rtol=1e-9, atol=1e-10)
    once = weight.grad.clone()
    (a.sum() + b.sum()).backward()  # a second time through the kept graph: the same again
    torch.testing.assert_close(weight.grad, 2 * once)


@pytest.mark.parametrize("solver", ROOTS, ids=lambda s: type(s).__name__)
def test_every_path_to_the_root_has_the_same_answer_and_gradient(solver: Solver) -> None:
    layer = ImplicitLayer(dense(), TIGHT, EXACT)
    x = torch.randn(3, 3, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(layer(x).sum(), layer.cell.recurrent.weight)
    z = layer(x)
    other = layer.with_solver(solver)
    found = other(x)
    (gradient,) = torch.autograd.grad(found.sum(), layer.cell.recurrent.weight)
    # A relative residual of 1e-4, through (I - J)^-1 of norm below 10.
    torch.testing.assert_close(found, z, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(gradient, wanted, rtol=1e-2, atol=1e-2)


def test_sample_does_not_see_its_batch_mates() -> None:
    cell = ConvCell(8, groups=4, gain=0.5).double()
    x = torch.randn(5, 8, 4, 4, dtype=torch.float64)
    x[3:] *= 1e-3  # hard mates: next to no condition, which leaves f far from contractive
    for layer in (ImplicitLayer(cell), FlowLayer(cell, ODE(method="rk4"))):
        layer.on_failure = "ignore"
        alone = torch.cat([layer(row) for row in x.split(1)])
        # Convolutions of another batch size may round differently.
        torch.testing.assert_close(layer(x)[:3], alone[:3], rtol=1e-9, atol=1e-9)


def test_a_bare_cell_starts_at_zero_and_is_conditioned_on_x() -> None:
    layer = ImplicitLayer(Bare().double(), TIGHT)
    x = torch.randn(2, 5, dtype=torch.float64)
    (condition,) = layer.condition(x)
    assert condition is x
    assert torch.equal(layer.initial(x), torch.zeros_like(x))
    z = layer(x)
    torch.testing.assert_close(layer.cell(z, x), z)


def test_layers_compose_in_sequential() -> None:
    net = nn.Sequential(nn.Linear(4, 3), ImplicitLayer(DenseCell(3, 6)), nn.Linear(6, 2))
    net(torch.randn(5, 4)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("change", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_of_a_layer_give_its_answers(change) -> None:
    x = torch.randn(2, 3)
    for layer in (ImplicitLayer(DenseCell(3, 4)), FlowLayer(DenseCell(3, 4), ODE(rtol=1e-4))):
        twin = change(layer)
        twin(x).sum().backward()
        assert torch.equal(twin(x), layer(x))
        assert all(p.grad is None for p in layer.parameters())


def test_a_warm_start_at_the_answer_costs_one_evaluation() -> None:
    layer, x = ImplicitLayer(DenseCell(3, 4)), torch.randn(2, 3)
    found = layer.solve(x)
    for start in (found, found.value):
        again = layer.solve(x, z0=start)
        assert torch.equal(again.evals, torch.ones(2, dtype=torch.int64))
        assert torch.equal(again.value, found.value)


def test_failures_warn_raise_or_pass_as_asked() -> None:
    x = torch.zeros(3, 2)
    settings = {"solver": Picard(max_steps=3), "gradient": Phantom()}
    with pytest.warns(ConvergenceWarning, match="3 of 3 samples did not converge.*max_steps"):
        ImplicitLayer(Exploding(), **settings)(x)
    with pytest.raises(SolveError) as caught:
        ImplicitLayer(Exploding(), on_failure="raise", **settings)(x)
    assert caught.value.solution.value.shape == x.shape
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ImplicitLayer(Exploding(), on_failure="ignore", **settings)(x)
        solution = ImplicitLayer(Exploding(), on_failure="raise", **settings).solve(x)
    assert not bool(solution.converged.any())  # solve leaves it to the caller


@pytest.mark.parametrize(
    ("named", "wrong"),
    [
        ("on_failure", lambda cell: ImplicitLayer(cell, on_failure="warning")),
        ("FlowLayer", lambda cell: ImplicitLayer(cell, ODE())),
        ("ImplicitLayer", lambda cell: FlowLayer(cell, Anderson())),
        ("solver must", lambda cell: ImplicitLayer(cell, "anderson")),
        ("cell must", lambda cell: ImplicitLayer(lambda z, x: z)),
        ("above 0", lambda cell: FlowLayer(cell, t1=-1)),
        ("finite", lambda cell: FlowLayer(cell, t1=float("inf"))),
        ("one floating", lambda cell: FlowLayer(cell, t1=nn.Parameter(torch.ones(2)))),
        ("polish", lambda cell: ImplicitLayer(cell).with_solver(Picard(), polish=Picard())),
    ],
)
def test_wrong_arguments_are_named(named: str, wrong: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=named):
        wrong(DenseCell(3, 4))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_cell_gives_the_same_answer_and_gradient(backend: str) -> None:
    cell, x = DenseCell(3, 4), torch.randn(4, 3)
    compiled = torch.compile(cell, backend=backend)
    pairs: list[tuple[Layer, Layer]] = [
        (ImplicitLayer(cell), ImplicitLayer(compiled)),
        (FlowLayer(cell), FlowLayer(compiled)),
    ]
    for plain, other in pairs:
        assert len(other.condition(x)) == 2  # the compiled cell's own condition is found
        found = []
        for layer in (plain, other):
            z = layer(x)
            found.append((z, *torch.autograd.grad(z.sum(), list(cell.parameters()))))
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_autocast_linearises_the_map_that_it_solved() -> None:
    torch.manual_seed(0)
    cell, x = DenseCell(8, 16), torch.randn(4, 8)
    layer = ImplicitLayer(cell, Anderson(rtol=1e-2), Implicit(Anderson(rtol=1e-2)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = layer(x)
        condition = layer.condition(x)
    assert z.dtype == torch.float32  # the state stays in single precision
    (found,) = torch.autograd.grad(z.sum(), cell.recurrent.weight)
    # The same by hand, on the map as autocast computes it.
    root = z.detach().requires_grad_()
    seen: list[torch.dtype] = []
    cell.recurrent.register_forward_hook(lambda *a: seen.append(a[2].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image = cell(root, *condition)
    assert seen == [torch.bfloat16]
    u = torch.ones_like(z)
    for _ in range(60):
        (pulled,) = torch.autograd.grad(image, root, u.to(image.dtype), retain_graph=True)
        u = 1 + pulled.float()
    (wanted,) = torch.autograd.grad(image, cell.recurrent.weight, u.to(image.dtype))
    # The backward solver's 1e-2, through (I - J)^-1, and the rounding of bf16 sums (2^-8).
    assert float((found - wanted).norm() / wanted.norm()) < 3e-2


def test_autocast_of_the_stem_does_not_lower_the_state() -> None:
    layer = ImplicitLayer(ConvCell(4, groups=2, gain=0.5), Anderson(rtol=1e-2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = nn.Conv2d(4, 4, 1)(torch.randn(2, 4, 4, 4))
        assert x.dtype == torch.bfloat16
        assert layer.initial(x).dtype == torch.float32
        assert layer(x).dtype == torch.float32


def test_recorded_solve_keeps_its_path() -> None:
    cell, x = DenseCell(3, 4), torch.randn(2, 3)
    solution = ImplicitLayer(cell).solve(x, record=True)
    assert solution.trajectory is not None
    assert torch.equal(solution.trajectory.z[-1], solution.value)
    flow = FlowLayer(cell).solve(x, record=True)
    assert flow.trajectory is not None and flow.trajectory.time is not None
    assert float(flow.trajectory.time[-1, 0]) == pytest.approx(5.0)
