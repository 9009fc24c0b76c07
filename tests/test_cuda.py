"""A GPU gives the CPU's answers: `make test-cuda`, skipped where there is none."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import (
    DEQ,
    Adjoint,
    Anderson,
    FlowLayer,
    HomoODE,
    Implicit,
    ImplicitLayer,
    MonotoneDEQ,
    NeuralODE,
    Phantom,
    RungeKutta,
    Unroll,
)
from homotopy_deq.certification import Converged, Smoother, Smoothing
from homotopy_deq.lipschitz import AOL, CPL, SLL, Sandwich
from solvers import Equilibrium, Solver, Status, solve
from solvers.homotopy import Family, trace

from .test_swap import PATHS, RTOL, Cell

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def both(module: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return a double-precision module and its copy on the GPU."""
    module = module.double()
    return module, deepcopy(module).cuda()


@pytest.mark.parametrize("solver", PATHS, ids=repr)
def test_solver_gives_the_answer_and_the_gradient_of_the_cpu(solver: Solver[Any, Any]) -> None:
    """Each answer is within rtol / (1 - .64) of the root in relative terms."""
    torch.manual_seed(0)
    x = torch.randn(7, 5, dtype=torch.float64)
    found: list[tuple[Tensor, Tensor]] = []
    for device, cell in zip(("cpu", "cuda"), both(Cell()), strict=True):
        there = x.to(device, copy=True).requires_grad_()
        solution = ImplicitLayer(cell, solver, Implicit(Anderson(rtol=1e-10))).solve(there)
        assert solution.value.device.type == solution.status.device.type == device
        assert solution.converged.all()
        solution.value.square().sum().backward()
        assert there.grad is not None
        found.append((solution.value.detach().cpu(), there.grad.cpu()))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=50 * RTOL, atol=50 * RTOL)


@pytest.mark.parametrize("gradient", [Implicit(), Phantom(), Unroll()], ids=repr)
def test_gradient_rules_agree_with_the_cpu(gradient: Any) -> None:
    torch.manual_seed(0)
    x, grads = torch.randn(7, 5, dtype=torch.float64), []
    for device, cell in zip(("cpu", "cuda"), both(Cell()), strict=True):
        ImplicitLayer(cell, Anderson(rtol=1e-10), gradient)(x.to(device)).sum().backward()
        grads.append([p.grad.cpu() for p in cell.parameters() if p.grad is not None])
    assert len(grads[0]) == 4
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gradient", [Unroll(), Adjoint()], ids=repr)
def test_flow_agrees_with_the_cpu(gradient: Any) -> None:
    class Field(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W = nn.Linear(5, 5)

        def forward(self, z: Tensor, x: Tensor) -> Tensor:
            return torch.tanh(self.W(z)) + x

    torch.manual_seed(0)
    x, ends = torch.randn(7, 5, dtype=torch.float64), []
    solver = None if isinstance(gradient, Adjoint) else RungeKutta(rtol=1e-8, atol=1e-8)
    for device, field in zip(("cpu", "cuda"), both(Field()), strict=True):
        layer = (
            FlowLayer(field, gradient=gradient)
            if solver is None
            else FlowLayer(field, solver, gradient)
        )
        end = layer(x.to(device))
        end.sum().backward()
        ends.append((end.detach().cpu(), field.W.weight.grad.cpu()))  # type: ignore[operator, union-attr]
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", [DEQ, HomoODE, MonotoneDEQ, NeuralODE])
def test_model_trains_a_step_under_autocast(family: Any) -> None:
    torch.manual_seed(0)
    model = family((1, 8, 8), hidden=16).cuda()
    images = torch.rand(32, 1, 8, 8, device="cuda")
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            output = model.solve(images)
            loss = nn.functional.cross_entropy(
                output.logits.float(), torch.arange(32, device="cuda") % 10
            )
        loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert loss.isfinite()


@pytest.mark.parametrize("layer", [AOL, CPL, SLL, Sandwich])
def test_lipschitz_layer_agrees_with_the_cpu(layer: Any) -> None:
    torch.manual_seed(0)
    x, values = torch.randn(4, 6, dtype=torch.float64), []
    sizes = (6, 6) if layer in (AOL, Sandwich) else (6, 9)
    for device, module in zip(("cpu", "cuda"), both(layer(*sizes)), strict=True):
        values.append(module(x.to(device)).detach().cpu())
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=1e-12)


def test_branch_with_two_folds_is_traced() -> None:
    def f(z: Tensor, lam: Tensor) -> Tensor:
        return 2 * z - z.pow(3) + lam  # a root where lam = z^3 - z

    start = torch.full((1, 1), -1.5, dtype=torch.float64, device="cuda")
    (branch,) = trace(Family(f), start, lam=-2.0, span=(-2.0, 2.0))
    assert len(branch.folds) == 2


def test_smoother_certifies() -> None:
    torch.manual_seed(0)
    model = DEQ((1, 8, 8), hidden=8, contraction=0.8, kernel=0).cuda().eval()
    image = torch.rand(1, 8, 8, device="cuda")
    smoothing = Smoothing(0.5, n0=64, n=256)
    certificate = Smoother(model, Converged(), smoothing).certify(image, 3, 0)
    assert certificate.evidence.samples == 256


def test_status_of_a_map_without_a_root_is_max_steps() -> None:
    problem = Equilibrium(lambda z: z + 1)
    found = solve(problem, Anderson(max_steps=5), torch.zeros(3, 2, device="cuda"))
    assert (found.status != Status.CONVERGED).all()


def test_command_line_trains_and_certifies_on_the_gpu(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from homotopy_deq.cli import app

    run = str(tmp_path / "run")
    words = ["train", "--model", "monotone", "--dataset", "digits", "--epochs", "1", "--out", run]
    for command in (
        words,
        ["evaluate", run],
        ["certify", run, "--limit", "10", "--n", "256", "--sigma", ".5"],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
