"""A backward pass under autocast solves to what its precision holds, without a warning."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from homotopy_deq import Anderson, Implicit, ImplicitLayer
from homotopy_deq.cells import DenseCell

EPS = {torch.bfloat16: 2**-7, torch.float16: 2**-10}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(ImplicitLayer(DenseCell(8, 16)), nn.Linear(16, 3))


def batch() -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return torch.randn(32, 8, generator=drawn), torch.arange(32) % 3


def gradient(model: nn.Sequential, dtype: torch.dtype | None, scale: float = 1.0) -> Tensor:
    """Return the gradient of all weights as one vector, of a loss times `scale`, divided by it."""
    x, labels = batch()
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        logits = model(x.to(next(model.parameters())))
    loss = nn.functional.cross_entropy(logits.to(x) if dtype else logits, labels)
    (loss * scale).backward()
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return flat.double() / scale


def exact() -> Tensor:
    model = net().double()
    tight = Anderson(rtol=1e-12)
    model[0] = model[0].with_solver(tight, Implicit(tight))  # type: ignore[operator]
    return gradient(model, None)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        (torch.bfloat16, 1.0),
        (torch.bfloat16, 2.0**16),
        (torch.float16, 1.0),
    ],  # as a GradScaler does
)
def test_gradient_is_that_of_double_precision_to_its_rounding(
    dtype: torch.dtype, scale: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # forward and backward solve meet their tolerances
        found = gradient(net(), dtype, scale)
    apart = float((found - exact()).norm() / exact().norm())
    print(f"{dtype}, loss x {scale:g}: {apart:.1e}")
    assert apart < 4 * EPS[dtype]  # the roundings of f and of J^T u, two solves to one eps each
