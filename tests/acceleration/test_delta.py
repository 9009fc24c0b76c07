"""A trained layer by delta: the same equation, the same gradients, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from homotopy_deq import DEQ, FlowLayer, ImplicitLayer, Status, Unroll
from homotopy_deq.acceleration import (
    DeltaLayer,
    Entrywise,
    Gathered,
    Simulated,
    account,
    delta,
)
from solvers import DeltaPicard, SolveError
from solvers.delta import Blocks, Entries
from tests.acceleration.cases import TIGHT, Perceptron, every_case, layer_of
from tests.problems import exact_gradient, normal


@every_case
@pytest.mark.parametrize("together", [Entries(), Blocks(3)])
@pytest.mark.parametrize("kernels", [Gathered(), Gathered(share=1.0), Simulated(), Entrywise()])
def test_answer_is_that_of_the_layer(name: str, together: Any, kernels: Any) -> None:
    layer, x = layer_of(name)
    solver = DeltaPicard(rtol=1e-10, max_steps=2000, together=together)
    fast = delta(layer, theta=0.1, solver=solver, products=kernels)
    # Both residuals are below 1e-10 ||f(z)||; these cells contract by .9 and have ||z|| < 20.
    torch.testing.assert_close(fast(x), layer(x), rtol=0, atol=5e-8)


@every_case
def test_gradient_is_that_of_the_exact_equation(name: str) -> None:
    layer, x = layer_of(name)
    fast = delta(layer, theta=0.1, rtol=1e-12)
    x = x.requires_grad_()
    found = fast.solve(x).check()
    v = normal(8, *found.value.shape)
    weights = [p for p in layer.parameters() if p.requires_grad]
    got = torch.autograd.grad((found.value * v).sum(), (x, *weights), allow_unused=True)
    plain = layer.solve(x).check()
    wanted = torch.autograd.grad((plain.value * v).sum(), (x, *weights), allow_unused=True)
    for one, other in zip(got, wanted, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)

    def map(z: Tensor, x: Tensor) -> Tensor:
        return layer.equation(layer.condition(x)).map(z.clone(), *layer.condition(x))

    (exact,) = exact_gradient(map, found.value, (x,), v)
    torch.testing.assert_close(got[0], exact, rtol=1e-7, atol=1e-8)


def test_layer_is_left_as_it_was_and_shares_its_weights() -> None:
    layer, x = layer_of("perceptron")
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    fast = delta(layer, theta=0.1)
    fast(x)
    assert type(layer.cell.a) is nn.Linear and layer.solver == TIGHT
    assert all(tensor.equal(before[name]) for name, tensor in layer.state_dict().items())
    assert [*fast.state_dict()] == [*before]
    with torch.no_grad():
        layer.cell.b.bias.add_(0.5)  # a step of training
    torch.testing.assert_close(delta(layer, theta=0.1, rtol=1e-12)(x), layer(x), rtol=0, atol=1e-10)
    torch.testing.assert_close(fast.with_solver(TIGHT)(x), layer(x), rtol=0, atol=1e-10)


def test_model_is_wrapped_around_its_layer() -> None:
    torch.manual_seed(0)
    model = DEQ((1, 8, 8), hidden=8, contraction=0.8).double().eval()
    images = normal(0, 4, 1, 8, 8)
    fast = delta(model, theta=0.05, rtol=1e-8)
    assert isinstance(fast.layer, DeltaLayer) and not isinstance(model.layer, DeltaLayer)
    torch.testing.assert_close(fast(images), model.with_solver(TIGHT)(images), rtol=0, atol=1e-5)


def test_flow_to_rest_is_a_root_by_delta_and_a_flow_without_rest_is_refused() -> None:
    layer, x = layer_of("perceptron")
    flow = FlowLayer(layer.cell)
    torch.testing.assert_close(delta(flow, theta=0.1, rtol=1e-12)(x), layer(x), rtol=0, atol=1e-10)
    with pytest.raises(TypeError, match="rest_point"):
        delta(FlowLayer(layer.cell, rest_point=False), theta=0.1)
    with pytest.raises(TypeError, match="got a Linear"):
        delta(nn.Linear(2, 2), theta=0.1)  # type: ignore[type-var]


class Twice(Perceptron):
    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.b(self.b(z)) + self.u(x))


class Written(Perceptron):
    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(F.linear(z, self.a.weight) + x @ self.u.weight.mT)


class Bare(nn.Module):
    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(0.5 * z + x)


def test_what_delta_cannot_follow_is_refused_in_one_line() -> None:
    x = normal(3, 6, 5)
    with pytest.raises(
        ValueError, match="'b' of the cell is called twice.*skip=\\('b',\\)"
    ) as error:
        delta(ImplicitLayer(Twice()), theta=0.1)(x)
    assert "\n" not in str(error.value)
    skipping = delta(ImplicitLayer(Twice(), TIGHT), theta=0.1, skip=("b",))
    with pytest.raises(ValueError, match="no step changes"):
        skipping(x)  # what is left is the injection
    with pytest.raises(ValueError, match="was called as a module"):
        delta(ImplicitLayer(Written()), theta=0.1)(x)
    with pytest.raises(ValueError, match=r"no nn\.Linear or nn\.Conv2d"):
        delta(ImplicitLayer(Bare()), theta=0.1)(x)
    layer, _ = layer_of("perceptron")
    for wrong in ({"theta": {"z": 0.1, "c": 0.1}}, {"theta": 0.1, "skip": ("c",)}):
        with pytest.raises(ValueError, match="called 'c'; .* 'a', 'b', 'u'"):
            delta(layer, **wrong)(x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="state's own above 0"):
        delta(layer, tau={"b": 0.1})
    with pytest.raises(ValueError, match="not both"):
        delta(layer, 0.1, 0.1)


def test_rest_at_the_threshold_that_was_asked_for_is_no_failure_of_a_layer() -> None:
    layer, x = layer_of("perceptron")
    rough = delta(layer, tau=1e-2)
    assert (rough.solve(x).status == Status.AT_THRESHOLD).any()
    assert rough(x).shape == (6, 12)  # and raises nothing
    with pytest.raises(SolveError, match="reached max_steps"):
        delta(layer, theta=0.1, solver=DeltaPicard(max_steps=2))(x)


def test_thresholds_may_differ_by_layer() -> None:
    layer, x = layer_of("perceptron")
    spent = {}
    for ratio in (0.1, 1.0, 100.0):
        made = delta(layer, tau={"z": 1e-3, "b": ratio * 1e-3}, rtol=1e-6, products=Entrywise())
        spent[ratio] = {each.name: each.spent for each in account(made, x).layers}["b"]
    assert spent[0.1] > spent[1.0] > spent[100.0]


def test_parametrised_weight_is_followed_and_a_hooked_one_is_evaluated_densely() -> None:
    for wrap, followed in (
        (parametrizations.weight_norm, {"a", "b", "u"}),
        (nn.utils.spectral_norm, {"b", "u"}),
    ):
        layer, x = layer_of("perceptron")
        wrap(layer.cell.a)
        layer.eval()
        with torch.no_grad():
            layer(x)
            made = account(delta(layer, theta=0.1, rtol=1e-10), x)
            assert {each.name for each in made.layers} == followed
            torch.testing.assert_close(made.solution.value, layer(x), rtol=0, atol=1e-8)


class Moody(Perceptron):
    """Calls its second layer from its third evaluation on, and writes into x from its fifth."""

    calls = 0

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        Moody.calls += 1
        out = self.a(z) + self.u(x.mul_(1.0) if Moody.calls > self.written else x)
        return torch.tanh(self.b(out) if Moody.calls > self.other else out)

    def __init__(self, other: int, written: int) -> None:
        super().__init__()
        self.other, self.written = other, written
        Moody.calls = 0


def test_cell_that_changes_its_ways_is_told_so() -> None:
    x = normal(3, 6, 5)
    with pytest.raises(RuntimeError, match="calls other layers than in its first"):
        delta(ImplicitLayer(Moody(3, 99)), theta=0.1, products=Gathered())(x)
    with pytest.raises(RuntimeError, match="wrote into its argument"):
        delta(ImplicitLayer(Moody(99, 3)), theta=0.1, products=Gathered())(x)


def test_layers_may_be_skipped_by_the_module_that_holds_them() -> None:
    class Nested(Perceptron):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(self.a, nn.ReLU(inplace=True), self.b)
            del self.a, self.b

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return torch.tanh(self.inner(z) + self.u(x) + 0.1 * self.u.weight.sum())

    x = normal(3, 6, 5)
    layer = ImplicitLayer(Nested(), TIGHT)
    found = account(delta(layer, theta=0.1, rtol=1e-12, skip=("inner.0",)), x)
    assert [each.name for each in found.layers] == ["inner.2", "u"]
    torch.testing.assert_close(found.solution.value, layer(x).detach(), rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="no step changes"):
        delta(layer, theta=0.1, skip=("inner",))(x)


def test_batch_statistics_are_evaluated_on_the_whole_batch() -> None:
    cell: Any = Perceptron()
    cell.b = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12)).double()
    nn.init.constant_(cell.b[1].weight, 0.02)
    layer, x = ImplicitLayer(cell, TIGHT, coupled=True), normal(3, 6, 5)
    fast = delta(layer, theta=0.1, rtol=1e-12)
    torch.testing.assert_close(fast(x), layer(x), rtol=0, atol=1e-9)
    assert int(cell.b[1].num_batches_tracked) > 0
    with pytest.raises(ValueError, match=r"call eval\(\)"):
        account(fast, x)


def test_no_gradient_mode_stands_in_the_way() -> None:
    layer, x = layer_of("perceptron")
    fast, wanted = delta(layer, theta=0.1, rtol=1e-12), layer(x).detach()
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            torch.testing.assert_close(fast(x).detach(), wanted, rtol=0, atol=1e-10)
    unrolled = delta(layer, theta=0.1, rtol=1e-6)
    unrolled.gradient = Unroll()  # through kernels that are differentiable, whatever was chosen
    weight = layer.cell.a.weight
    (got,) = torch.autograd.grad(unrolled(x).sum(), weight)
    (exact,) = torch.autograd.grad(layer(x).sum(), weight)
    torch.testing.assert_close(got, exact, rtol=1e-2, atol=1e-3)


def test_compiled_cell_is_followed_uncompiled() -> None:
    layer, x = layer_of("perceptron")
    compiled = ImplicitLayer(torch.compile(layer.cell, backend="eager"), TIGHT)
    torch.testing.assert_close(delta(compiled, theta=0.1, rtol=1e-12)(x), layer(x))
