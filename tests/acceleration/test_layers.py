"""A single layer propagates what has added up to its threshold; many err by what they skip."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import Status, Unroll
from homotopy_deq.acceleration import (
    DeltaConv2d,
    DeltaLinear,
    Gathered,
    Simulated,
    delta,
    layered_bound,
)
from solvers import DeltaPicard
from tests.acceleration.cases import layer_of
from tests.problems import DOUBLE, normal


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
