"""A trained layer by delta: the same equation and gradients, fewer multiply-adds, all accounted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from homotopy_deq import DEQ, FlowLayer, ImplicitLayer, Picard, Status, Unroll
from homotopy_deq.acceleration import (
    Convolution,
    DeltaConv2d,
    DeltaLayer,
    DeltaLinear,
    Entrywise,
    Gathered,
    Simulated,
    account,
    delta,
    layered_bound,
)
from homotopy_deq.cells import ContractiveCell, ConvCell, DenseCell
from solvers import DeltaPicard, Implicit, SolveError
from solvers.delta import Blocks, Entries
from tests.problems import DOUBLE, exact_gradient, normal


class Perceptron(nn.Module):
    """f(z; x) = tanh(B relu(A z) + U x + b): two layers, the second fed by the first."""

    def __init__(self, n: int = 12, inputs: int = 5) -> None:
        super().__init__()
        self.n = n
        self.a = nn.Linear(n, n, bias=False)
        self.b = nn.Linear(n, n)
        self.u = nn.Linear(inputs, n)
        for k, layer in enumerate((self.a, self.b)):
            weight = normal(k, n, n)
            weight = 0.8 * weight / torch.linalg.matrix_norm(weight, 2)
            layer.weight = nn.Parameter(weight)  # so f contracts by .64
        self.double()

    def initial(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.n)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.b(torch.relu(self.a(z))) + self.u(x))


class InPlace(Perceptron):
    """The same, which writes into its argument and into what its layers return."""

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.b(self.a(z.mul_(1.0)).relu_()).add_(self.u(x)).tanh_()


def slowed(cell: nn.Module) -> nn.Module:
    """Make some rows of a cell's weights small, so that these entries converge at once."""
    with torch.no_grad():
        for weight in cell.parameters():
            if weight.dim() > 1:
                weight[3:] *= 0.05
    return cell.double()


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "dense": lambda: (slowed(DenseCell(5, 12)), normal(3, 6, 5)),
    "perceptron": lambda: (slowed(Perceptron()), normal(3, 6, 5)),
    "in place": lambda: (slowed(InPlace()), normal(3, 6, 5)),
    "convolutional": lambda: (ConvCell(4, groups=2, gain=0.5).double(), normal(3, 3, 4, 7, 6)),
    "inclusion": lambda: (slowed(ContractiveCell((12,))), normal(3, 6, 12)),
    "circular": lambda: (ContractiveCell((4, 6, 6)).double(), normal(3, 3, 4, 6, 6)),
}
every_case = pytest.mark.parametrize("name", CASES)
TIGHT = Picard(rtol=1e-12, max_steps=2000)


def layer_of(name: str, solver: Any = TIGHT) -> tuple[ImplicitLayer, Tensor]:
    torch.manual_seed(0)
    cell, x = CASES[name]()
    return ImplicitLayer(cell, solver, Implicit(TIGHT), on_failure="raise"), x


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


def test_a_model_is_accounted_as_its_layer_is() -> None:
    model = DEQ((1, 8, 8), hidden=8, groups=2).eval()
    images, fast = torch.rand(3, 1, 8, 8), delta(model, tau=1e-2)
    x = fast.condition(images).detach()
    found, same = account(fast, images), account(fast.layer, x, fast.start(x))
    assert found.spent == same.spent > 0 and found.samples == 3
    with pytest.raises(TypeError, match="account takes what delta or tune returned; got a DEQ"):
        account(model, images)


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


# --- what it takes ------------------------------------------------------------------------------


def flops(f: Callable[[], Any]) -> int:
    """torch's count of a dense call, which is right for products and convolutions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        f()
    return counter.get_total_flops() // 2


@every_case
def test_dense_count_of_each_layer_is_that_of_torch(name: str) -> None:
    layer, x = layer_of(name)
    made = account(delta(layer, theta=0.1), x)
    condition = layer.condition(x)
    map = layer.equation(condition).map
    z = made.solution.value.clone()
    assert sum(each.dense for each in made.layers) * len(x) == flops(lambda: map(z, *condition))


def test_work_of_a_solve_is_what_torch_counts() -> None:
    """Gathers, products and convolutions: all that Gathered does is seen by torch's counter."""
    for name in ("dense", "perceptron", "inclusion", "circular", "convolutional"):
        layer, x = layer_of(name, Picard(rtol=1e-6))
        fast = delta(layer, theta=0.3)
        with torch.no_grad():
            fast(x)  # one sample is evaluated the first time, to see what the cell is
            condition = fast.condition(x)
            problem = fast.problem(condition)
            with FlopCounterMode(display=False) as counter:
                found = fast.gradient.apply(problem, fast.solver, fast.initial(x))
        checks = found.checks * problem.map.multiply_adds(found.value, *condition)
        assert found.work is not None
        assert counter.get_total_flops() == 2 * (found.work + checks)


def test_injection_is_hoisted_on_both_sides() -> None:
    layer, x = layer_of("perceptron", Picard(rtol=1e-8))
    made = account(delta(layer, theta=0.1, products=Entrywise()), x)
    a, b, u = made.layers
    assert [each.name for each in made.layers if each.hoisted] == ["u"]
    assert (a.dense, b.dense, u.dense) == (144, 144, 60)
    steps = int(made.solution.steps.max())
    # The user's own map computes it at the start, at the end and in the check of the batch; the
    # one that follows computes it once.
    assert u.spent <= (3 + made.solution.checks) * 60 * len(x) < steps * 60 * len(x)
    assert made.dense(40) == 6 * (40 * (144 + 144) + 60)
    assert made.spent < made.dense()


def test_entrywise_count_takes_in_the_area_of_the_kernel() -> None:
    weight, x = normal(0, 5, 4, 3, 3), torch.zeros(2, 4, 6, 6, dtype=DOUBLE)
    for convolution, inner, corner in (
        (Convolution(weight, padding=(1, 1, 1, 1)), 9 * 5, 4 * 5),
        (Convolution(weight, padding=(1, 1, 1, 1), mode="circular"), 9 * 5, 9 * 5),
        (Convolution(weight[:4, :2], padding=(1, 1, 1, 1), groups=2), 9 * 2, 4 * 2),
        (Convolution(weight, padding=(1, 1, 1, 1), stride=(2, 2)), 1 * 5, 1 * 5),
    ):
        kernel = Entrywise().convolution(convolution)
        once = convolution.weight.shape[1] * convolution.groups * convolution.reads(x).sum()
        padded = convolution.mode == "constant"  # whose zeros the dense count multiplies, too
        assert (2 * once < kernel.multiply_adds(x)) == padded
        assert (2 * once == kernel.multiply_adds(x)) != padded
        change = x.clone()
        change[1, 2, 2, 2] = 1.0
        assert kernel.moved(convolution(x), change, x + change)[1] == inner
        change = x.clone()
        change[0, 0, 0, 0] = 1.0
        assert kernel.moved(convolution(x), change, x + change)[1] == corner


# --- single layers ------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", [Gathered(), Gathered(share=1.0), Simulated()])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4),
        nn.Linear(6, 4, bias=False),
        nn.Conv2d(6, 4, 3, padding=1),
        nn.Conv2d(6, 4, (3, 2), stride=2, padding=(0, 1), dilation=(1, 2), bias=False),
        nn.Conv2d(6, 4, 3, groups=2, padding="same", padding_mode="reflect"),
        nn.Conv2d(6, 4, 2, padding="same", padding_mode="circular"),
    ],
    ids=str,
)
def test_layer_propagates_what_has_added_up_to_the_threshold(
    layer: nn.Module, kernels: Any
) -> None:
    layer = layer.double()
    kind: Any = DeltaLinear if isinstance(layer, nn.Linear) else DeltaConv2d
    made, shape = kind(layer, kernels), (3, 6) if isinstance(layer, nn.Linear) else (3, 6, 5, 7)
    x = normal(0, *shape)
    assert made(x).equal(layer(x))  # outside of a solve
    out, memory = made.start(x)
    torch.testing.assert_close(out, layer(x))
    reference, tau = x.clone(), torch.tensor([0.0, 0.05, 0.2], dtype=DOUBLE)
    for k in range(6):
        x = x + 0.1 * normal(k + 1, *shape)
        far = (x - reference).abs() > tau.view(-1, *(1,) * (x.dim() - 1))
        reference = torch.where(far, x, reference)
        out, memory = made.move(memory, x, tau)
        assert memory.reference.equal(reference)
        torch.testing.assert_close(out, layer(reference), rtol=0, atol=1e-13)
    assert out[0].allclose(layer(x)[0])  # whose threshold is 0


def test_error_of_many_layers_is_within_their_gains_times_what_they_skip() -> None:
    """(1 / (1 - l)) (l tau sqrt(n) + sum_i G_i tau_i sqrt(n_i)), G_i from a layer's input to f."""
    layer, x = layer_of("perceptron")
    exact, n = layer(x).detach(), 12
    cell: Any = layer.cell
    a, b = (float(torch.linalg.matrix_norm(m.weight.detach(), 2)) for m in (cell.a, cell.b))
    for tau in (1e-2, 1e-3):
        fast = delta(layer, tau={"z": tau, "b": 3 * tau}, rtol=1e-14, solver=DeltaPicard())
        found = fast.solve(x)
        assert (found.status == Status.AT_THRESHOLD).any()
        # The bound of one threshold is not claimed of several layers, however the solve ends.
        for refresh in (50, 1, 2):
            solver = DeltaPicard(contraction=a * b, refresh=refresh, rtol=1e-14)
            told = delta(layer, tau=tau, solver=solver).solve(x).bound
            assert told is not None and told.prior.isinf().all()
            assert told.posterior.isfinite().all()
        bound = layered_bound(a * b, [(a * b, tau * n**0.5), (b, 3 * tau * n**0.5)])
        assert float((found.value.detach() - exact).norm(dim=1).max()) <= bound


# --- to train with the threshold ----------------------------------------------------------------


def test_simulation_is_differentiated_through_its_thresholds() -> None:
    layer, x = layer_of("perceptron")
    cell: Any = layer.cell
    layer.gradient = Unroll()
    layer.on_failure = "ignore"
    tau = 1e-2
    made = delta(layer, tau=tau, solver=DeltaPicard(max_steps=4, rtol=1e-9), simulate=True)
    v = normal(2, 6, 12)
    got = torch.autograd.grad((made(x) * v).sum(), [*layer.parameters()])

    def thresholded(new: Tensor, old: Tensor) -> Tensor:
        return torch.where((new - old).abs() > tau, new, old)

    r = torch.zeros(6, 12, dtype=DOUBLE)
    fr, inner = cell(r, x), None
    for _ in range(3):
        r = thresholded(fr, r)
        h = torch.relu(cell.a(r))
        inner = h if inner is None else thresholded(h, inner)
        fr = torch.tanh(cell.b(inner) + cell.u(x))
    wanted = torch.autograd.grad((fr * v).sum(), [*layer.parameters()])
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["perceptron", "convolutional"])
def test_bad_mates_harm_no_sample_where_blocks_move_together(name: str) -> None:
    layer, x = layer_of(name)
    layer.on_failure = "ignore"
    fast = delta(layer, theta=0.2, rtol=1e-9)
    bad = torch.cat([x[:3], 1e308 * x[:1], float("inf") * x[:1], x[:1] * float("nan")])
    found = fast.solve(bad)
    assert found.converged[:3].all() and not found.converged[4:].any()
    torch.testing.assert_close(found.value[:3], layer(x[:3]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", ["perceptron", "convolutional"])
def test_sample_of_a_layer_does_not_see_its_mates_where_entries_move_alone(name: str) -> None:
    layer, x = layer_of(name)
    layer.on_failure = "ignore"
    fast = delta(layer, theta=0.2, solver=DeltaPicard(rtol=1e-8))
    alone = [fast.solve(x[k : k + 1]) for k in range(3)]
    bad = torch.cat([x[:3], 1e3 * x[:1], x[:1] * float("nan")])
    together = fast.solve(bad)
    assert together.status[4] == Status.NONFINITE
    for k, each in enumerate(alone):
        assert together.status[k] == each.status[0] and together.steps[k] == each.steps[0]
        torch.testing.assert_close(together.value[k], each.value[0], rtol=1e-9, atol=1e-11)


def test_coupled_layer_and_autocast_are_evaluated_densely() -> None:
    layer, x = layer_of("dense")
    coupled = ImplicitLayer(layer.cell, TIGHT, coupled=True)
    torch.testing.assert_close(delta(coupled, theta=0.1, rtol=1e-12)(x), layer(x))
    torch.manual_seed(0)
    single = ImplicitLayer(DenseCell(5, 12), Picard(rtol=2e-2))
    with torch.autocast("cpu", torch.bfloat16):
        wanted, found = single(x.float()), delta(single, theta=0.1)(x.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.1)


def test_empty_batch_has_an_empty_answer() -> None:
    layer, x = layer_of("perceptron")
    assert delta(layer, theta=0.1)(x[:0]).shape == (0, 12)
