"""An image that is not finite costs its batch nothing but itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from homotopy_deq import DEQ, HomoODE, MonotoneDEQ, NeuralODE
from solvers import Anderson, Implicit, Status

SETTINGS: dict[str, Any] = {"hidden": 8, "dropout": 0.0}


def gradients(model: torch.nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Of the mean loss of the images whose logits are numbers."""
    logits = model(images)
    good = torch.isfinite(logits).all(1)
    loss = F.cross_entropy(logits[good], labels[good])
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("kind", [DEQ, HomoODE, MonotoneDEQ, NeuralODE])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradient_is_that_of_the_batch_without_the_image(kind: Any, bad: float) -> None:
    torch.manual_seed(0)
    more = {"contraction": 0.8} if kind is DEQ else {}
    model = kind((1, 8, 8), 3, on_failure="ignore", **SETTINGS, **more).double()
    if kind in (DEQ, MonotoneDEQ):
        model = model.with_solver(Anderson(rtol=1e-12), Implicit(Anderson(rtol=1e-12)))
    images, labels = torch.rand(4, 1, 8, 8).double(), torch.tensor([0, 1, 2, 0])
    keep = torch.tensor([0, 1, 3])
    wanted = gradients(model, images[keep], labels[keep])
    images[2, 0, 3, 3] = bad
    found = gradients(model, images, labels)
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:  # by the solver's tolerance times the size of (I - J)^-1
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_batch_without_an_image_to_look_at_has_gradients_of_zero() -> None:
    model = DEQ((1, 8, 8), 3, on_failure="ignore", **SETTINGS)
    logits = model(torch.full((2, 1, 8, 8), float("nan")))
    assert bool(torch.isnan(logits).all())
    found = torch.autograd.grad(logits[:0].sum(), list(model.parameters()), allow_unused=True)
    assert all(one is not None and not bool(one.any()) for one in found[:1])


def test_image_is_told_of() -> None:
    model = DEQ((1, 8, 8), 3, **SETTINGS).eval()
    images = torch.rand(3, 1, 8, 8)
    images[1, 0, 0, 0] = float("nan")
    found = model.solve(images)
    assert found.solution.status[1] == Status.NONFINITE
    assert found.solution.residual[1] == float("inf")
    assert torch.isfinite(found.logits).all(1).tolist() == [True, False, True]
    assert bool(torch.isfinite(found.solution.value).all())
