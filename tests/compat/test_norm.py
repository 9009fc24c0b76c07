"""Normed weights are right after each update, without a reset."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from homotopy_deq.compat import apply_norm, get_deq, remove_norm, reset_norm


def trained(module: nn.Module) -> None:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    for _ in range(3):
        sum(p.square().sum() + p.sum() for p in module.parameters()).backward()  # type: ignore[union-attr]
        optimizer.step()


@pytest.mark.parametrize(
    "module", [nn.Linear(6, 4), nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(3, 5, 3)]
)
def test_spectral_norm_is_the_target_after_updates(module: nn.Module) -> None:
    """torchdeq's was 1.12 for a target of .9 after its first reset."""
    net = nn.Sequential(module)
    apply_norm(net, "spectral_norm", learn_scale=False, target_norm=0.9)
    for _ in range(2):
        weight: Any = module.weight
        matrix = weight.transpose(0, 1) if isinstance(module, nn.ConvTranspose2d) else weight
        sizes = torch.linalg.svdvals(matrix.flatten(1).detach())
        assert float(sizes[0]) == pytest.approx(0.9, rel=1e-5)  # single precision
        trained(net)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("learn", [False, True])
def test_weight_norm_is_that_of_torchdeq(clip: bool, learn: bool) -> None:
    theirs = pytest.importorskip("torchdeq.norm")
    settings: dict[str, Any] = {
        "learn_scale": learn, "clip": clip, "clip_value": 0.5, "target_norm": 0.8,
    }  # fmt: skip
    nets = []
    for apply, reset in ((theirs.apply_norm, theirs.reset_norm), (apply_norm, reset_norm)):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Conv1d(2, 2, 1))
        apply(net, "weight_norm", filter_out="2", **settings)
        reset(net)
        nets.append(net)
    assert torch.allclose(nets[0][0].weight, nets[1][0].weight, atol=1e-6)
    assert type(nets[1][2]) is nn.Conv1d  # left out


def test_a_scale_is_learned_and_the_weight_follows_it() -> None:
    layer = nn.Linear(4, 3)
    before = layer.weight.detach().clone()
    apply_norm(nn.Sequential(layer), "weight_norm")
    assert torch.allclose(layer.weight, before, atol=1e-6)  # as it was
    with torch.no_grad():
        layer.parametrizations.weight[0].scale.mul_(2)  # type: ignore[index, union-attr, operator]
    assert torch.allclose(layer.weight, 2 * before, atol=1e-6)
    layer.weight.sum().backward()
    assert all(p.grad is not None for p in layer.parameters() if p is not layer.bias)


def test_a_solve_computes_a_normed_weight_once_and_has_its_gradient() -> None:
    """Once for the path and once with a graph for each evaluation that is differentiated."""
    layer = nn.Linear(4, 4).double()
    apply_norm(nn.Sequential(layer), "spectral_norm", learn_scale=False, target_norm=0.7)
    calls = []
    layer.parametrizations.weight[0].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index, union-attr, operator]
    x = torch.randn(3, 4, dtype=torch.float64)
    module = get_deq(ift=True, f_tol=1e-10, f_max_iter=100, b_tol=1e-10, b_max_iter=200)
    (z,), info = module(lambda z: layer(z) + x, torch.zeros_like(x))
    assert info["nstep"].min() > 10 and len(calls) <= 4
    (got,) = torch.autograd.grad(z.sum(), layer.parametrizations.weight.original)  # type: ignore[union-attr]
    again = torch.linalg.solve(torch.eye(4).double() - layer.weight, (layer.bias + x).T).T
    (exact,) = torch.autograd.grad(again.sum(), layer.parametrizations.weight.original)  # type: ignore[union-attr]
    assert torch.allclose(got, exact, rtol=1e-6, atol=1e-8)


def test_normed_weights_can_be_taken_back_and_are_not_normed_twice() -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    apply_norm(net, "spectral_norm")
    with pytest.raises(ValueError, match="parametrized already"):
        apply_norm(net)
    weight = net[0].weight.detach().clone()
    remove_norm(net)
    assert isinstance(net[0].weight, nn.Parameter) and torch.equal(net[0].weight, weight)
    apply_norm(net, "none")
    with pytest.raises(ValueError, match="norm_type must be one of"):
        apply_norm(net, "batch_norm")


def test_parameters_of_any_module_are_normed_by_their_names() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.omega = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(2, 3))

    graph = Graph()
    apply_norm(graph, "weight_norm", names=["w", "omega"], dims=[0, 1], learn_scale=False)
    assert torch.allclose(graph.w.norm(dim=1), torch.ones(3))
    assert torch.allclose(graph.omega.norm(dim=0), torch.ones(3))
    remove_norm(graph)
    assert isinstance(graph.w, nn.Parameter)


@pytest.mark.parametrize("norm_type", ["weight_norm", "spectral_norm"])
def test_a_weight_of_zeros_is_refused_as_no_factor_gives_it_a_norm(norm_type: str) -> None:
    net = nn.Sequential(nn.Linear(4, 3))
    nn.init.zeros_(net[0].weight)
    with pytest.raises(ValueError, match="of zeros|is 0"):
        apply_norm(net, norm_type)
