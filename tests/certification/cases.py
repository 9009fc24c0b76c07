"""A linear classifier, whose smoothed version is known exactly, and a small undefended DEQ."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from homotopy_deq import DEQ
from homotopy_deq.data import load
from homotopy_deq.models import ImageModel
from tests.training.tiny import model

SIGMA = 0.5


def linear(seed: int = 0, n: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two classes split by a hyperplane: w of length 1, images, their classes and distances."""
    torch.manual_seed(seed)
    w = F.normalize(torch.randn(12, dtype=torch.float64), dim=0)
    images = torch.rand(n, 1, 3, 4, dtype=torch.float64)
    margins = images.flatten(1) @ w
    return w, images, (margins > 0).long(), margins.abs()


def halves(w: Tensor, images: Tensor) -> Tensor:
    side = 4 * images.flatten(1) @ w.to(images)
    return torch.stack([-side, side], 1)


@cache
def undefended() -> tuple[ImageModel, Tensor, Tensor]:
    """A small DEQ trained without any noise, and test images; seconds."""
    images = load("digits")
    torch.manual_seed(0)
    network = model(images, DEQ, hidden=8, head=32, pool=2)
    optimizer = torch.optim.Adam(network.parameters(), 5e-3)
    for _ in range(4):
        for rows in torch.randperm(len(images.train_labels)).split(64):  # type: ignore[no-untyped-call]
            logits = network.solve(images.train_images[rows].float() / 255).logits
            optimizer.zero_grad()
            F.cross_entropy(logits, images.train_labels[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return network.eval(), images.test_images[:60].float() / 255, images.test_labels[:60]
