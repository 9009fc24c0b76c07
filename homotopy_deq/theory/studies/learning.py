"""Learn classes with the kernels of infinitely wide DEQs, and with DEQs of a width."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from solvers import Anderson, Implicit

from ...layers import ImplicitLayer
from ...training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ...training.optim import cosine, load_state, state_tensors
from ..kernels import DEQKernel, least_eigenvalue
from ..regression import KernelRegression
from .study import Advance, Result

RIDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
RATE, SLOWER = 0.1, 10.0
"""Adam's at width 1, which falls like 1 / sqrt(n); W's is slower."""

FLOOR = 1.0
"""Added to the eigenvalues of the inputs' second moments, whose mean is 1, where U is learnt."""

RTOL = 1e-3
"""Of the equilibria and of their gradients in training: a batch's noise is far larger."""

MARGIN, GLANCE = 0.5, 2000
"""Least logit of the class learnt over the next, where training ends; test inputs of an epoch."""


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
        solver = Anderson(rtol=RTOL)
        self.layer = ImplicitLayer(self.cell, solver, Implicit(solver))
        self.head = nn.Linear(width, classes, bias=False)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return f, (B, K)."""
        out: Tensor = self.head(self.layer(x))
        return out


class _Cell(nn.Module):
    rowwise: ClassVar[bool] = True
    top: Tensor

    def __init__(self, inputs: int, width: int, sigma_w: float) -> None:
        super().__init__()
        self.recurrent = nn.Linear(width, width, bias=False)
        self.inject = nn.Linear(inputs, width, bias=False)
        nn.init.normal_(self.recurrent.weight, std=sigma_w / math.sqrt(width))
        nn.init.normal_(self.inject.weight, std=1 / math.sqrt(inputs))
        self.bound = 2 * sigma_w
        self.register_buffer("top", nn.functional.normalize(torch.randn(width), dim=0))

    @torch.no_grad()
    def project(self) -> None:
        """Scale W back to ||W|| <= 2 sigma_w, what it is at the start of a wide one.

        The norm is that of a power iteration which goes on from call to call.
        """
        w = self.recurrent.weight
        self.top = nn.functional.normalize(w.mT @ (w @ self.top), dim=0)
        w.mul_((self.bound / (w @ self.top).norm()).clamp_max(1))

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
    clock: Callable[[], float] = time.process_time,
    kept: Path | None = None,
) -> Result:
    """Train a DEQ of a width by cross entropy until it fits all classes that it learns from.

    U is learnt in coordinates in which the inputs are nearly white, U = U' (C + `FLOOR`)^-1/2 with
    C = X^T X / N, from the same random U: the network is the theory's and only Adam's steps differ.
    By the pixels themselves, which mostly vary together, 40 epochs are far from fitting noise.

    Arguments:
        width: n.
        data: float32 is trained in.
        epochs: the most; the learning rate falls to 0 over them.
        batch: inputs a step.
        seed: of the weights and of the order.
        advance: told of each epoch.
        seconds: the most.
        clock: tells them; those of the processor by default.
        kept: a file that holds the training after each epoch, and from which it goes on.
    """
    torch.manual_seed(seed)
    white, back = _whitening(data.x)
    x, y, test_x = (data.x @ white).float(), data.y, (data.test_x @ white).float()
    classes = int(data.test_y.max()) + 1
    model = WideDEQ(x.shape[1], width, classes).to(x.device)
    rate, cell = RATE / math.sqrt(width), model.cell
    with torch.no_grad():
        cell.inject.weight.copy_(cell.inject.weight.double() @ back)
    optimiser = torch.optim.Adam([
        {"params": [*cell.inject.parameters(), *model.head.parameters()], "first": rate},
        {"params": cell.recurrent.parameters(), "first": rate / SLOWER},
    ])  # fmt: skip
    each = -(-len(x) // batch)
    curve: list[dict[str, float]] = []
    spent, why = 0.0, "epochs"
    if kept is not None and kept.exists():
        held = load_checkpoint(kept)
        model.load_state_dict(held.under("model"))
        load_state(optimiser, held.under("optimiser"))
        torch.set_rng_state(held.tensors["random"])
        curve, spent = held.meta["curve"], held.meta["spent"]
        advance(len(curve))
    since = clock() - spent
    while len(curve) < epochs:
        for step, rows in enumerate(torch.split(torch.randperm(len(x)).to(x.device), batch)):
            for group in optimiser.param_groups:
                group["lr"] = cosine(len(curve) * each + step, epochs * each, group["first"], 0)
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            cell.project()
        outputs = _outputs(model, x)
        glance = _accuracy(_outputs(model, test_x[:GLANCE]), data.test_y[:GLANCE])
        curve.append({"train": _accuracy(outputs, y), "test": glance})
        advance(1)
        if kept is not None:
            tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
            tensors |= {f"optimiser.{name}": t for name, t in state_tensors(optimiser).items()}
            tensors["random"] = torch.get_rng_state()
            told = {"curve": curve, "spent": clock() - since}
            save_checkpoint(kept, Checkpoint(tensors, told))
        if _margin(outputs, y) > MARGIN:
            why = "fitted"
            break
        if clock() - since > seconds:
            why = "time"
            break
    advance(epochs - len(curve))
    return {
        "curve": curve,
        "ended by": why,
        "core seconds": round(clock() - since, 1),
        "norm of W": float(torch.linalg.matrix_norm(cell.recurrent.weight.detach(), 2)),
        "train": curve[-1]["train"],
        "test": _accuracy(_outputs(model, test_x), data.test_y),
    }


def _whitening(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return (C + FLOOR)^-1/2 and its inverse, C = x^T x / N."""
    values, vectors = torch.linalg.eigh(x.mT @ x / len(x))
    roots = (values.clamp_min(0) + FLOOR).sqrt()
    return vectors / roots @ vectors.mT, vectors * roots @ vectors.mT


@torch.no_grad()
def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([model(block) for block in torch.split(x, 500)])


def _margin(outputs: Tensor, y: Tensor) -> float:
    """Return the least output of the class learnt over the largest of the others."""
    own = outputs.gather(1, y[:, None])
    others = outputs.scatter(1, y[:, None], -math.inf).amax(1, keepdim=True)
    return float((own - others).min())


def _accuracy(outputs: Tensor, y: Tensor) -> float:
    return float((outputs.argmax(1) == y).double().mean())


def best(rows: Sequence[dict[str, Any]]) -> float:
    """Return the best test accuracy over ridges, chosen by it: a little more than a ridge keeps."""
    return float(max(row["test"] for row in rows))
