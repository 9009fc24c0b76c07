"""What the samples of a batch do to each other in a delta solve: nothing."""

from __future__ import annotations

import pytest
import torch

from homotopy_deq import ImplicitLayer, Picard, Status
from homotopy_deq.acceleration import (
    delta,
)
from homotopy_deq.cells import DenseCell
from solvers import DeltaPicard
from tests.acceleration.cases import TIGHT, layer_of


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
