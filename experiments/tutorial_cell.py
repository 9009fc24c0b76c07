"""Train the best-known DEQ tutorial's cell, with and without a Jacobian penalty, until it drifts.

    python -m experiments.tutorial_cell --data DIR

The cell norm3(relu(z + norm2(x + conv2(norm1(relu(conv1 z)))))) of Kolter, Duvenaud and Johnson's
tutorial (2020), chapter 4, with its Anderson of 25 evaluations at a tolerance of 1e-2, classifies
Fashion-MNIST, here at half the resolution and half the channels. After each epoch: the growth of
J^T, how many test images their own solver does not solve, and the accuracy. At the end: which
solvers solve the trained map, at what cost, and what accuracy their answers have; torchdeq's
Anderson beside them where it is installed. Each arm is kept as soon as it is done.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.parts import Parts
from experiments.results import RESULTS, Record
from homotopy_deq import ImplicitLayer, diagnose
from homotopy_deq.data import load
from homotopy_deq.diagnosis import Diagnosis
from homotopy_deq.regularization import jacobian_penalty
from solvers import Anderson, Broyden, Flow, Implicit, NewtonKrylov, PseudoTransient, Robust
from solvers.norms import relative


@dataclass(frozen=True)
class Config:
    seed: int = 0
    dataset: str = "fashion-mnist"
    data: Path | None = None
    channels: int = 24
    inner: int = 32
    stride: int = 2
    limit: int = 10_000
    test_limit: int = 2_000
    batch: int = 100
    epochs: int = 6
    lr: float = 1e-3
    weights: tuple[float, ...] = (0.0, 1.0, 5.0)
    rtol: float = 1e-2
    evaluations: int = 25
    looked_at: int = 16
    solved_for: int = 64
    minutes: float | None = None
    device: str = "cpu"
    work: Path = Path("runs/tutorial_cell")


class Cell(nn.Module):
    """The tutorial's `ResNetLayer`."""

    def __init__(self, channels: int, inner: int, groups: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inner, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(inner, channels, 3, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, inner)
        self.norm2 = nn.GroupNorm(groups, channels)
        self.norm3 = nn.GroupNorm(groups, channels)
        for conv in (self.conv1, self.conv2):
            nn.init.normal_(conv.weight, std=0.01)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        h = self.norm1(F.relu(self.conv1(z)))
        out: Tensor = self.norm3(F.relu(z + self.norm2(x + self.conv2(h))))
        return out


class Net(nn.Module):
    """The tutorial's network around it."""

    def __init__(self, config: Config, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, side = config.channels, shape[1] // config.stride
        self.stem = nn.Sequential(
            nn.Conv2d(shape[0], channels, 3, padding=1, stride=config.stride),
            nn.BatchNorm2d(channels),
        )
        path = Anderson(rtol=config.rtol, max_steps=config.evaluations - 1, memory=5)
        backward = Implicit(Anderson(rtol=config.rtol, max_steps=config.evaluations - 1, memory=5))
        cell = Cell(channels, config.inner)
        self.layer = ImplicitLayer(cell, path, backward, on_failure="ignore")
        pool = max(1, side // 4)
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels), nn.AvgPool2d(pool), nn.Flatten(),
            nn.Linear(channels * (side // pool) ** 2, classes),
        )  # fmt: skip


def arm(config: Config, weight: float) -> dict[str, Any]:
    """Train with one weight of the penalty, measure each epoch, and try the solvers at the end."""
    torch.manual_seed(config.seed)
    data = load(
        config.dataset, config.data, limit=config.limit,
        test_limit=config.test_limit, seed=config.seed,
    )  # fmt: skip
    scale = torch.tensor(data.mean).view(-1, 1, 1), torch.tensor(data.std).view(-1, 1, 1)
    train, test = (
        ((images.float() / 255 - scale[0]) / scale[1]).to(config.device)
        for images in (data.train_images, data.test_images)
    )
    labels, test_labels = (t.to(config.device) for t in (data.train_labels, data.test_labels))
    net = Net(config, data.shape, data.num_classes).to(config.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.lr)
    steps = config.epochs * -(-len(train) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-6)
    warnings.filterwarnings("ignore", "Implicit gradient")  # unsolved shares are in the rows
    rows = []
    for epoch in range(config.epochs):
        begin, losses = time.perf_counter(), []
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(epoch))
        net.train()
        for index in order.split(config.batch):
            x = net.stem(train[index])
            z = net.layer(x)
            loss = F.cross_entropy(net.head(z), labels[index])
            losses.append(loss.item())
            if weight:
                loss = loss + weight * jacobian_penalty(net.layer.cell, z.detach(), x.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - begin
        rows.append({"loss": sum(losses) / len(losses), "seconds": seconds}
                    | after_epoch(config, net, test, test_labels))  # fmt: skip
        shown = {k: round(v, 3) for k, v in rows[-1].items()}
        print(f"penalty {weight:g}, epoch {epoch + 1}: {shown}", flush=True)
    return {"epochs": rows, "solvers": tried(config, net, test, test_labels)}


@torch.no_grad()
def after_epoch(config: Config, net: Net, test: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the accuracy, the share that its own solver leaves unsolved, and the growth."""
    net.eval()
    right, unsolved, evals = [], [], []
    for images, known in zip(test.split(250), labels.split(250), strict=True):
        found = net.layer.solve(net.stem(images))
        right.append(net.head(found.value).argmax(1) == known)
        unsolved.append(~found.converged)
        evals.append(found.evals)
    looked: Diagnosis = diagnose(net.layer, net.stem(test[: config.looked_at]), solvers={})
    growth = looked.spectrum.growth.double().cpu()
    return {
        "accuracy": torch.cat(right).float().mean().item(),
        "unsolved": torch.cat(unsolved).float().mean().item(),
        "evaluations": torch.cat(evals).float().mean().item(),
        "growth, median": growth.median().item(),
        "growth, worst": growth.max().item(),
        "non-normality": looked.spectrum.nonnormality.median().item(),
    }


@torch.no_grad()
def tried(config: Config, net: Net, test: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    """Return how solvers fare on some test images at the tolerance of the training."""
    net.eval()
    rtol, x, known = config.rtol, net.stem(test[: config.solved_for]), labels[: config.solved_for]
    rows = {}
    for name, solver in {
        f"Anderson, {config.evaluations} evaluations": net.layer.solver,
        "Anderson, 200": Anderson(rtol=rtol, max_steps=199),
        "Broyden, 200": Broyden(rtol=rtol, max_steps=199),
        "NewtonKrylov": NewtonKrylov(rtol=rtol, max_steps=20),
        "PseudoTransient": PseudoTransient(rtol=rtol),
        "Flow": Flow(rtol=rtol),
        "Robust": Robust(rtol=rtol),
    }.items():
        begin = time.perf_counter()
        found = net.layer.with_solver(solver).solve(x)
        seconds = time.perf_counter() - begin
        rows[name] = fared(net, found.value, found.residual <= rtol, found.evals, known, seconds)
    if find_spec("torchdeq"):
        rows |= peer(config, net, x, known)
    return rows


def peer(config: Config, net: Net, x: Tensor, known: Tensor) -> dict[str, dict[str, float]]:
    """Return how torchdeq's Anderson fares, held to the same relative residual."""
    from torchdeq.solver import get_solver

    rows = {}
    for evaluations in (config.evaluations, 200):
        begin = time.perf_counter()
        z, _, info = get_solver("anderson")(
            lambda z: net.layer.cell(z, x), torch.zeros_like(x),
            max_iter=evaluations, tol=config.rtol, stop_mode="rel",
        )  # fmt: skip
        seconds = time.perf_counter() - begin
        image = net.layer.cell(z, x)
        solved = relative(image - z, image) <= config.rtol
        name = f"torchdeq anderson, {evaluations}"
        rows[name] = fared(net, z, solved, info["nstep"].view(-1), known, seconds)
    return rows


def fared(
    net: Net, z: Tensor, solved: Tensor, evals: Tensor, known: Tensor, seconds: float
) -> dict[str, float]:
    return {
        "solved": solved.float().mean().item(),
        "evaluations": evals.double().mean().item(),
        "accuracy": (net.head(z).argmax(1) == known).float().mean().item(),
        "seconds": seconds,
    }


def main(config: Config = Config(), results: Path = RESULTS) -> Path | None:  # noqa: B008
    """Run the arms that are not done, and write experiments/results/tutorial_cell.json."""
    record, began = Record("tutorial_cell", config), time.monotonic()
    parts = Parts(config.work, replace(config, minutes=None))
    rows = {}
    for weight in config.weights:
        name = f"penalty-{weight:g}"
        late = config.minutes is not None and time.monotonic() - began > 60 * config.minutes
        if late and not (config.work / f"{name}.json").exists():
            print(f"{config.minutes:g} minutes are over: say the same again to go on with {name}")
            return None
        rows[f"{weight:g}"] = parts(name, lambda weight=weight: arm(config, weight))
    path = record.write(rows, results)
    print(f"Written to {path}")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default=Config.dataset)
    parser.add_argument("--data", type=Path, help="folder of the images")
    parser.add_argument("--limit", type=int, default=Config.limit, help="train images")
    parser.add_argument("--epochs", type=int, default=Config.epochs)
    parser.add_argument("--channels", type=int, default=Config.channels)
    parser.add_argument("--inner", type=int, default=Config.inner)
    parser.add_argument("--minutes", type=float, help="begin no further arm after so many")
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--work", type=Path, default=Config.work, help="what is done")
    main(Config(**vars(parser.parse_args())))
