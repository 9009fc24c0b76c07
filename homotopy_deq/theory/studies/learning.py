"""Learn classes with the kernels of infinitely wide DEQs, and with DEQs of a width."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from solvers import Anderson

from ...layers import ImplicitLayer
from ..kernels import DEQKernel, least_eigenvalue
from ..regression import KernelRegression
from .study import Advance, Result

RIDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RATE, SLOWER = 0.1, 10.0
"""Adam's at width 1, which falls like 1 / sqrt(n); W's is slower, so that h* stays one."""


@dataclass(frozen=True)
class Classes:
    """Inputs and their classes, to learn from and to judge by.

    Arguments:
        x: (N, n_in), of mean square 1 each.
        y: (N,), the classes that are learnt, some of them wrong where asked for.
        test_x: (M, n_in).
        test_y: (M,), right.
    """

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def of(
        cls, images: Tensor, labels: Tensor, test_images: Tensor, test_labels: Tensor
    ) -> Classes:
        """Scale images (N, ...) to vectors of mean square 1, and leave out those that come twice.

        A kernel matrix with two equal rows is singular.
        """
        x, test_x = (_scaled(each) for each in (images, test_images))
        _, place = torch.unique(x, dim=0, return_inverse=True)
        first = torch.full((len(x),), len(x), dtype=torch.long, device=x.device)
        order = torch.arange(len(x), device=x.device)
        first.scatter_reduce_(0, place, order, "amin")
        kept = first[first < len(x)].sort().values
        return cls(x[kept], labels.to(x.device)[kept], test_x, test_labels.to(x.device))

    def flipped(self, share: float, seed: int) -> Classes:
        """Return the same with a share of the learnt classes moved to another one."""
        generator = torch.Generator().manual_seed(seed)
        count, classes = round(share * len(self.y)), int(self.test_y.max()) + 1
        which = torch.randperm(len(self.y), generator=generator)[:count].to(self.y.device)
        by = torch.randint(1, classes, (count,), generator=generator).to(self.y)
        y = self.y.clone()
        y[which] = (y[which] + by) % classes
        return replace(self, y=y)


def _scaled(images: Tensor) -> Tensor:
    x = images.flatten(1).double()
    scaled: Tensor = x * (math.sqrt(x.shape[1]) / x.norm(dim=1, keepdim=True))
    return scaled


def regress(name: str, kernel: DEQKernel, data: Classes, advance: Advance) -> Result:
    """Return accuracies of a kernel's regression ("nngp" or "ntk"), for each ridge."""
    call = kernel if name == "nngp" else kernel.ntk
    matrix = call(data.x)
    across = torch.cat([call(block, data.x) for block in torch.split(data.test_x, 2048)])
    rows = []
    for ridge in RIDGES:
        fitted = KernelRegression(lambda a, b: matrix if a is b else call(a, b), ridge)
        fitted.fit(data.x, data.y)
        rows.append({
            "ridge": ridge,
            "train": _accuracy(matrix @ fitted.weights, data.y),
            "test": _accuracy(across @ fitted.weights, data.test_y),
        })  # fmt: skip
        advance(1)
    return {"rows": rows, "least eigenvalue": least_eigenvalue(matrix)}


class WideDEQ(nn.Module):
    """f = V h*, h* = relu(W h* + U x), with U, W and V drawn as in `sample_deq`, to be learnt.

    Arguments:
        inputs: n_in.
        width: n.
        classes: K.
        sigma_w: of W.
    """

    def __init__(self, inputs: int, width: int, classes: int, sigma_w: float = 0.6) -> None:
        super().__init__()
        self.cell = _Cell(inputs, width, sigma_w)
        self.layer = ImplicitLayer(self.cell, Anderson(rtol=1e-4))
        self.head = nn.Linear(width, classes, bias=False)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return f, (B, K)."""
        out: Tensor = self.head(self.layer(x))
        return out


class _Cell(nn.Module):
    rowwise: ClassVar[bool] = True

    def __init__(self, inputs: int, width: int, sigma_w: float) -> None:
        super().__init__()
        self.recurrent = nn.Linear(width, width, bias=False)
        self.inject = nn.Linear(inputs, width, bias=False)
        nn.init.normal_(self.recurrent.weight, std=sigma_w / math.sqrt(width))
        nn.init.normal_(self.inject.weight, std=1 / math.sqrt(inputs))

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.inject(x),)

    def initial(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.recurrent.in_features)

    def forward(self, z: Tensor, given: Tensor) -> Tensor:
        pre: Tensor = self.recurrent(z) + given
        return pre.relu()


def train(
    width: int,
    data: Classes,
    *,
    epochs: int,
    batch: int,
    seed: int,
    advance: Advance,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> Result:
    """Train a DEQ of a width by cross entropy until it fits all classes that it learns from.

    Arguments:
        width: n.
        data: float32 is trained in.
        epochs: the most; the learning rate falls to 0 over them.
        batch: inputs a step.
        seed: of the weights and of the order.
        advance: told of each epoch.
        seconds: the most.
        clock: tells them.
    """
    torch.manual_seed(seed)
    x, y, test_x = data.x.float(), data.y, data.test_x.float()
    classes = int(data.test_y.max()) + 1
    model = WideDEQ(x.shape[1], width, classes).to(x.device)
    rate, cell = RATE / math.sqrt(width), model.cell
    optimiser = torch.optim.Adam([
        {"params": [*cell.inject.parameters(), *model.head.parameters()], "lr": rate},
        {"params": cell.recurrent.parameters(), "lr": rate / SLOWER},
    ])  # fmt: skip
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    curve: list[dict[str, float]] = []
    since, why = clock(), "epochs"
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(x)).to(x.device), batch):
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
        curve.append({"train": _judged(model, x, y), "test": _judged(model, test_x, data.test_y)})
        advance(1)
        if curve[-1]["train"] == 1:
            why = "fitted"
            break
        if clock() - since > seconds:
            why = "time"
            break
    advance(epochs - len(curve))
    return {"curve": curve, "ended by": why, **curve[-1]}


@torch.no_grad()
def _judged(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return _accuracy(torch.cat([model(block) for block in torch.split(x, 2048)]), y)


def _accuracy(outputs: Tensor, y: Tensor) -> float:
    return float((outputs.argmax(1) == y).double().mean())


def best(rows: Sequence[dict[str, Any]]) -> float:
    """Return the best test accuracy over ridges, chosen by it: a little more than a ridge keeps."""
    return float(max(row["test"] for row in rows))
