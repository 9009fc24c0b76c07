"""Measure what delta iteration promises, what it saves, and a trained DEQ by it.

    python -m experiments.delta_bounds

Bounds: random contractions in double precision, solved with fixed thresholds by the rule of ours
and by the published one, against l tau / (1 - l). Thresholds relative to the largest change: dense
evaluations and multiply-adds of a heterogeneous and a homogeneous model. A DEQ trained on the
built-in digits, as it is, stopped early and by delta with tuned thresholds: loss, multiply-adds and
time. Each part is kept as it is measured.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.parts import Parts
from experiments.results import RESULTS, Record
from homotopy_deq import Anderson, Equilibrium, ImplicitLayer, Picard, Status, solve
from homotopy_deq.acceleration import Entrywise, Gathered, account, delta, tune
from homotopy_deq.cells import DenseCell
from homotopy_deq.data import load
from solvers import DeltaAnderson, DeltaPicard
from solvers.delta import Blocks

PHI: tuple[Callable[[Tensor], Tensor], ...] = (lambda y: y, torch.tanh, torch.relu, torch.sin)
NEVER = 1e-15  # a tolerance that no path meets before it rests


@dataclass(frozen=True)
class Config:
    """Sizes; `slow` is the share of the heterogeneous model's entries that converge slowly."""

    batches: int = 100
    draws: int = 100
    hidden: int = 512
    samples: int = 16
    slow: float = 0.25
    rtol: float = 1e-6
    trained: int = 1024
    steps: int = 200
    lr: float = 2e-4
    budget: float = 1e-3
    rounds: int = 7
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    work: Path = Path("runs/delta_bounds")
    seed: int = 0


def bounds(config: Config) -> dict[str, Any]:
    """Count violations of the bounds among random contractions, as tests/solvers/test_delta.py."""
    found = {"solves": 0, "prior broken": 0, "posterior broken": 0, "published rule broken": 0}
    nearest = {"prior": 0.0, "posterior": 0.0, "published rule": 0.0}
    for seed in range(config.batches):
        g = torch.Generator().manual_seed(config.seed + seed)
        u = torch.rand(3, generator=g).tolist()
        n, gain, tau = 1 + int(12 * u[0]), 0.3 + 0.65 * u[1], 10 ** -(1 + 4 * u[2])
        norm = (2.0, math.inf)[seed // 4 % 2]
        w = torch.randn(config.draws, n, n, generator=g, dtype=torch.float64)
        w = w.abs() if seed // 8 % 2 else w
        w = gain * w / torch.linalg.matrix_norm(w, norm, keepdim=True)
        x = torch.randn(config.draws, n, generator=g, dtype=torch.float64)
        phi = PHI[seed % len(PHI)]
        problem = Equilibrium(lambda z, w, x, phi=phi: phi((w @ z[..., None])[..., 0] + x), (w, x))
        exact = torch.zeros_like(x)
        for _ in range(math.ceil(math.log(1e-17) / math.log(gain))):
            exact = problem(exact)
        ours = DeltaPicard(tau=tau, contraction=gain, norm=norm, rtol=NEVER, max_steps=2000)
        a, b = (
            solve(problem, replace(ours, previous=previous), torch.zeros_like(x))
            for previous in (False, True)
        )
        assert a.bound is not None
        size, other = (torch.linalg.vector_norm(s.value - exact, norm, 1) for s in (a, b))
        slack = 1e-13 * (1 + torch.linalg.vector_norm(exact, norm, 1)) / (1 - gain)
        prior = gain * tau * (math.sqrt(n) if norm == 2 else 1.0) / (1 - gain)
        lost = other[b.status == Status.AT_THRESHOLD]
        found["solves"] += len(x)
        found["prior broken"] += int((size > a.bound.prior + slack).sum())
        found["posterior broken"] += int((size > a.bound.posterior + slack).sum())
        found["published rule broken"] += int((lost > prior + slack.max()).sum())
        shares = (size / a.bound.prior, size / (a.bound.posterior + slack), lost / prior)
        for name, share in zip(nearest, shares, strict=True):
            nearest[name] = max(nearest[name], float(share.max()))
    return {**found, "largest error / bound": nearest}


def uneven(config: Config, slow: float) -> tuple[ImplicitLayer, Tensor]:
    """Return z = tanh(W z + x), a share of whose entries has an eigenvalue of up to .97."""
    g = torch.Generator().manual_seed(config.seed)
    n, k = config.hidden, round(config.hidden * slow)

    def part(rows: int, columns: int, size: float) -> Tensor:
        drawn = torch.randn(rows, columns, generator=g, dtype=torch.float64)
        return size * drawn / math.sqrt(columns)

    q = torch.linalg.qr(torch.randn(k, k, generator=g, dtype=torch.float64))[0]
    core = q @ torch.diag(torch.linspace(0.48, 0.97, k, dtype=torch.float64)) @ q.mT
    rows = [torch.cat([core, part(k, n - k, 0.1)], 1)] if k < n else [core]
    if k < n:
        rows.append(torch.cat([part(n - k, k, 0.1), part(n - k, n - k, 0.3)], 1))
    cell = DenseCell(n, n).double()
    with torch.no_grad():
        cell.recurrent.weight.copy_(torch.cat(rows))
        cell.inject.weight.copy_(torch.eye(n))
        cell.inject.bias.zero_()
    x = torch.randn(config.samples, n, generator=g, dtype=torch.float64)
    x[:, :k] *= 0.3  # so that the slow entries stay where tanh is steep
    return ImplicitLayer(cell, Picard(rtol=config.rtol, max_steps=2000)), x


def effective(config: Config, slow: float) -> dict[str, float]:
    """Return multiply-adds over those of a dense evaluation, a sample, for each way to solve."""
    layer, x = uneven(config, slow)
    found: dict[str, float] = {}
    for solver in (layer.solver, Anderson(rtol=config.rtol)):
        solved = layer.with_solver(solver).solve(x).check()
        found[type(solver).__name__] = float(solved.evals.double().mean())
    for kind in (DeltaPicard, DeltaAnderson):
        for theta in (0.1, 0.3, 0.7):
            own = kind(rtol=config.rtol, max_steps=2000)
            blocks = replace(own, together=Blocks())
            entries = delta(layer, theta=theta, solver=own, products=Entrywise())
            columns = delta(layer, theta=theta, solver=blocks, products=Gathered(share=1.0))
            for name, made in (("entries", entries), ("columns of the batch", columns)):
                spent = account(made, x)  # type: ignore[arg-type]
                spent.solution.check()
                found[f"{kind.__name__} {theta:g}, {name}"] = spent.spent / spent.dense(1)
    return found


class Classifier(nn.Module):
    """A DEQ with a head, whose forward pass can be swapped."""

    def __init__(self, layer: ImplicitLayer, head: nn.Linear) -> None:
        super().__init__()
        self.layer, self.head = layer, head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(x))
        return logits


def trained(config: Config) -> dict[str, Any]:
    """Train a DEQ on the digits; solve its test images by each way, and time it."""
    data, device = load("digits"), torch.device(config.device)
    images, tests = (
        each.flatten(1).to(device).float() / 255 for each in (data.train_images, data.test_images)
    )
    labels, wanted = data.train_labels.to(device), data.test_labels.to(device)
    torch.manual_seed(config.seed)
    layer = ImplicitLayer(DenseCell(images.shape[1], config.trained), on_failure="ignore")
    model = Classifier(layer, nn.Linear(config.trained, 10)).to(device)
    optimiser = torch.optim.Adam(model.parameters(), config.lr)
    for _ in range(config.steps):
        rows = torch.randint(len(images), (64,), device=device)
        optimiser.zero_grad()
        F.cross_entropy(model(images[rows]), labels[rows]).backward()
        optimiser.step()
    choose, x, y = slice(0, 128), tests[128:], wanted[128:]

    def loss(z: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(model.head(z), y)

    tuned = tune(layer, [(tests[choose], wanted[choose])], config.budget, loss=loss)
    ways: dict[str, ImplicitLayer] = {
        "Picard, rtol 1e-2": layer.with_solver(Picard(rtol=1e-2)),  # type: ignore[dict-item]
        "Anderson, rtol 1e-4": layer,
        "Anderson, rtol 1e-2": layer.with_solver(Anderson(rtol=1e-2)),  # type: ignore[dict-item]
        "delta, theta .1, rtol 1e-2": delta(layer, theta=0.1, rtol=1e-2),
        "delta, tuned": tuned.target,
    }
    one = x.shape[0] * config.trained**2
    found: dict[str, Any] = {"tau": dict(tuned.tau), "budget": config.budget}

    def told(z: Tensor, evaluations: float, seconds: float) -> dict[str, float]:
        return {
            "loss": float(loss(z, y)),
            "accuracy": float((model.head(z).argmax(1) == y).float().mean()),
            "dense evaluations' worth": evaluations,
            "milliseconds": 1e3 * seconds,
        }

    with torch.no_grad():
        z, seconds = timed(lambda: iterated(layer, x), config)
        found["40 iterations"] = told(z, 40, seconds)
        for name, way in ways.items():
            solution, seconds = timed(lambda way=way: way.solve(x), config)
            work = solution.work or int(solution.evals.sum()) * config.trained**2
            found[name] = told(solution.value, work / one, seconds)
    return found


def iterated(layer: ImplicitLayer, x: Tensor) -> Tensor:
    """Return the state after 40 plain iterations, as the paper counts them."""
    equation, z = layer.equation(layer.condition(x)), layer.initial(x)
    for _ in range(40):
        z = equation(z)
    return z


def timed(call: Callable[[], Any], config: Config) -> tuple[Any, float]:
    """Return what a call gives, and the median of its seconds."""
    result, times = call(), []
    for _ in range(config.rounds):
        begin = time.perf_counter()
        result = call()
        if config.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return result, median(times)


def main(config: Config, folder: Path = RESULTS) -> dict[str, Any]:
    """Measure what is missing, print it and write experiments/results/delta_bounds.json."""
    record, parts = Record("delta_bounds", config), Parts(config.work, config)
    result = {
        "bounds": parts("bounds", lambda: bounds(config)),
        "heterogeneous": parts("heterogeneous", lambda: effective(config, config.slow)),
        "homogeneous": parts("homogeneous", lambda: effective(config, 1.0)),
        "trained": parts("trained", lambda: trained(config)),
    }
    console = Console()
    console.print_json(data=result)
    console.print(f"Written to {record.write(result, folder)}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--work", type=Path, default=Config.work)
    given = parser.parse_args()
    main(Config(device=given.device, work=given.work))
