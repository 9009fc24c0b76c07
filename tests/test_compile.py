"""torch.compile of a model: it compiles what is around a solve, and stays out of the solve."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import (
    DEQ,
    ODE,
    RK4,
    Adjoint,
    Anderson,
    Equilibrium,
    Flow,
    FlowLayer,
    HomoODE,
    ImplicitLayer,
    InitialValue,
    Phantom,
    Picard,
    RungeKutta,
    Then,
    Unroll,
    solve,
)
from homotopy_deq.cells import DenseCell

LAYERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "implicit": lambda cell: ImplicitLayer(cell),
    "phantom": lambda cell: ImplicitLayer(cell, gradient=Phantom(3)),
    "unroll": lambda cell: ImplicitLayer(cell, Picard(), Unroll()),
    "flow": lambda cell: FlowLayer(cell, ODE("rk4")),
    "adjoint": lambda cell: FlowLayer(cell, ODE("dopri5"), Adjoint()),
    "rest": lambda cell: ImplicitLayer(cell, Then(Flow(), Anderson())),
}


class Net(nn.Module):
    """A layer between two parts that are worth compiling."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.before, self.layer, self.after = nn.Linear(5, 8), layer, nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.after(self.layer(torch.relu(self.before(x)))))


class Graphs:
    """A backend that runs what it is given and counts it."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Any, example_inputs: Any) -> Any:
        self.count += 1
        return graph.forward


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def outcome(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Return what the net says and the gradients of all its parameters."""
    net.zero_grad()
    out = net(x)
    out.square().sum().backward()
    return [out.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("kind", LAYERS)
def test_compiled_model_is_two_graphs_with_the_same_numbers(kind: str) -> None:
    net = Net(LAYERS[kind](DenseCell(8, 16)))
    graphs = Graphs()
    compiled = torch.compile(net, backend=graphs)
    for batch in (4, 7):  # also where samples take other numbers of steps
        x = torch.randn(batch, 5)
        expected = outcome(net, x)
        for got, wanted in zip(outcome(compiled, x), expected, strict=True):
            assert torch.equal(got, wanted)  # the same operations in the same order
    # What is before the layer and what is after, each once more for a batch of any size.
    assert graphs.count <= 4


@pytest.mark.parametrize("kind", LAYERS)
def test_compiled_layer_alone_has_the_same_numbers(kind: str) -> None:
    layer = LAYERS[kind](DenseCell(8, 16))
    x = torch.randn(4, 8)
    expected = outcome(layer, x)
    for got, wanted in zip(
        outcome(torch.compile(layer, backend="eager"), x), expected, strict=True
    ):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("model", [DEQ, HomoODE])
def test_compiled_image_model_is_few_graphs_in_a_few_seconds(model: Any) -> None:
    net = model((1, 8, 8), 4, hidden=8, groups=4)
    images = torch.rand(3, 1, 8, 8)
    net.eval()
    expected = outcome(net, images)
    graphs = Graphs()
    begin = time.perf_counter()
    got = outcome(torch.compile(net, backend=graphs), images)
    seconds = time.perf_counter() - begin
    for one, other in zip(got, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)
    assert graphs.count <= 6
    assert seconds < 20  # about 1; with the loop traced 47 and more


def test_compiled_function_may_call_solve() -> None:
    def answer(x: Tensor) -> Tensor:
        return 2 * solve(Equilibrium(lambda z, x: 0.5 * z + x, (x,)), Picard(), x).value

    x = torch.ones(2, 3)
    graphs = Graphs()
    # z = z / 2 + 1 has z = 2; Picard's relative residual r = (2 - z) / (2 (1 + z / 2)) bounds
    # the error by about 2 r |z| = 4e-4, and the answer is twice that
    assert torch.allclose(torch.compile(answer, backend=graphs)(x), 4 * x, atol=1e-3)
    assert graphs.count <= 2


STEPS: dict[str, Any] = {
    "picard": Picard(damping=0.5),
    "anderson": Anderson(period=2, memory=3),
    "rk4": RungeKutta(RK4, step_size=0.25),
}


@pytest.mark.parametrize("solver", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("grad", [False, True])
def test_a_step_is_one_graph_with_the_same_numbers_and_gradient(solver: Any, grad: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=grad)
    if isinstance(solver, RungeKutta):
        problem: Any = InitialValue(
            lambda t, z, x: torch.tanh(0.5 * z.flip(1) + x) - z, 0.0, 1.0, (x,)
        )
    else:
        problem = Equilibrium(lambda z, x: torch.tanh(0.5 * z.flip(1) + x), (x,))
    graphs, found = Graphs(), []
    for step in (solver.step, torch.compile(solver.step, backend=graphs, fullgraph=True)):
        state = solver.init(problem, torch.zeros_like(x))
        for _ in range(4):
            state = step(problem, state)
        found.append(state.z)
    # The compiled step renews its history where the other writes into it: no rounding differs.
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)
    if grad:
        wanted, got = (torch.autograd.grad(z.square().sum(), x)[0] for z in found)
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)
    assert graphs.count <= 4  # one a step, for its place in the period


def test_fullgraph_says_what_to_compile_instead() -> None:
    net = Net(ImplicitLayer(DenseCell(8, 16)))
    with pytest.raises(Exception, match="compile the cell instead"):
        torch.compile(net, backend="eager", fullgraph=True)(torch.randn(4, 5))


def test_a_solve_without_the_compiler_does_not_import_it() -> None:
    code = (
        "import sys, torch\n"
        "from homotopy_deq import ImplicitLayer\n"
        "from homotopy_deq.cells import DenseCell\n"
        "layer = ImplicitLayer(DenseCell(3, 4))\n"
        "layer(torch.randn(2, 3)).sum().backward()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
