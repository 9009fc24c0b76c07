"""Run problems of torchdeq's examples through torchdeq and through our adapter, side by side.

    python -m experiments.porting

Three problems of the kinds that its README and its zoo solve, on drawn data: a functor of three
tensors, an implicit neural representation (sines of coordinates, injected at each step) and an
implicit graph network on chains, whose rows are one system. Each under each solver of torchdeq's,
exact gradients, to a relative 1e-6 in single precision: evaluations, time forward and of the whole
step (the least of several, interleaved), the worst residual, measured anew, and the gradient's
distance from that of a solve in double precision.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.results import RESULTS, Record
from homotopy_deq import compat

SOLVERS = ("fixed_point_iter", "anderson", "broyden")


@dataclass(frozen=True)
class Config:
    seed: int = 0
    batch: int = 64
    width: int = 64
    nodes: int = 100
    repeats: int = 10
    tolerance: float = 1e-6
    limit: int = 100
    device: str = "cpu"


@dataclass(frozen=True)
class Problem:
    """A map, its start, what is differentiated, and whether its rows are one system."""

    function: Callable[..., Any]
    start: Any
    weights: tuple[Tensor, ...]
    coupled: bool = False


def drawn(config: Config, kind: str, dtype: torch.dtype) -> Problem:
    """Return a problem; its numbers are those of the seed in any precision."""
    generator = torch.Generator().manual_seed(config.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def held(matrix: Tensor, size: float) -> Tensor:
        scaled = size * matrix / torch.linalg.matrix_norm(matrix, 2)
        return scaled.to(config.device, dtype).requires_grad_()

    def constant(tensor: Tensor) -> Tensor:
        return tensor.to(config.device, dtype)

    n, batch = config.width, config.batch
    if kind == "three tensors":
        weights = tuple(held(normal(n, n), 0.6) for _ in range(3))
        x = tuple(constant(normal(batch, n)) for _ in range(3))

        def system(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
            u, v, w = weights
            return [torch.tanh(b @ u + x[0]), torch.tanh(c @ v + x[1]), torch.tanh(a @ w + x[2])]

        return Problem(system, [torch.zeros_like(each) for each in x], weights)
    if kind == "implicit representation":
        weight = held(normal(n, n), 0.9)
        injected = constant(torch.sin(8 * normal(batch, 2) @ normal(2, n)))
        function = lambda z: torch.relu(z @ weight) * 0.9 * injected + injected  # noqa: E731
        return Problem(function, torch.zeros_like(injected), (weight,))
    weight = held(normal(n, n), 0.9)
    chain = constant(torch.diag(torch.ones(config.nodes - 1, dtype=torch.float64), 1))
    features = constant(normal(n, config.nodes))
    graph = lambda z: torch.relu(weight @ z @ chain + features)  # noqa: E731
    return Problem(graph, torch.zeros_like(features), (weight,), coupled=True)


KINDS = ("three tensors", "implicit representation", "implicit graph")


def measured(
    config: Config, kind: str, solver: str, make: Callable[..., nn.Module]
) -> Callable[[], dict[str, float]]:
    """Return a function that takes one step, and says what it took."""
    problem = drawn(config, kind, torch.float32)
    ours = make is compat.get_deq
    deq = make(
        f_solver=solver, b_solver=solver, f_tol=config.tolerance, b_tol=config.tolerance,
        f_stop_mode="rel", b_stop_mode="rel", f_max_iter=config.limit, b_max_iter=config.limit,
        ift=True, **({"coupled": problem.coupled} if ours else {}),
    )  # fmt: skip
    calls = 0

    def counted(*z: Tensor) -> Any:
        nonlocal calls
        calls += 1
        return problem.function(*z)

    exact = gradient(config, kind)

    def step() -> dict[str, float]:
        nonlocal calls
        calls = 0
        begin = time.perf_counter()
        z_out, _ = deq(counted, problem.start)
        forward, evaluations = time.perf_counter() - begin, calls
        parts = z_out[-1] if isinstance(z_out[-1], list) else [z_out[-1]]
        found = torch.autograd.grad(loss_of(parts), problem.weights)
        whole = time.perf_counter() - begin
        away = torch.cat([(a.double() - b).flatten() for a, b in zip(found, exact, strict=True)])
        size = torch.cat([b.flatten() for b in exact]).norm()
        return {
            "forward, ms": 1e3 * forward, "step, ms": 1e3 * whole, "evaluations": evaluations,
            "residual": residual(problem, parts), "gradient error": float(away.norm() / size),
        }  # fmt: skip

    return step


def loss_of(parts: list[Tensor]) -> Tensor:
    return torch.stack([part.square().mean() for part in parts]).sum()


@torch.no_grad()
def residual(problem: Problem, parts: list[Tensor]) -> float:
    image = problem.function(*parts)
    images = image if isinstance(image, list) else [image]
    after, before = (torch.cat([t.double().flatten(1) for t in ts], 1) for ts in (images, parts))
    sizes = (after - before).norm(dim=1), after.norm(dim=1)
    return float(
        sizes[0].norm() / sizes[1].norm() if problem.coupled else (sizes[0] / sizes[1]).max()
    )


def gradient(config: Config, kind: str) -> tuple[Tensor, ...]:
    """Return the gradient of a solve in double precision, by unrolling its last 200 steps."""
    problem = drawn(config, kind, torch.float64)
    z = problem.start if isinstance(problem.start, list) else [problem.start]
    for _ in range(200):
        image = problem.function(*z)
        z = image if isinstance(image, list) else [image]
    return torch.autograd.grad(loss_of(z), problem.weights)


def main(config: Config = Config(), results: Path = RESULTS) -> Path:  # noqa: B008
    """Measure, and write experiments/results/porting.json."""
    import torchdeq

    torch.set_num_threads(1)
    record = Record("porting", config)
    makers = {"torchdeq": torchdeq.get_deq, "ours": compat.get_deq}
    rows: dict[str, Any] = {}
    for kind in KINDS:
        rows[kind] = {}
        for solver in SOLVERS:
            steps = {name: measured(config, kind, solver, make) for name, make in makers.items()}
            found = [
                {name: step() for name, step in steps.items()} for _ in range(config.repeats + 1)
            ]
            rows[kind][solver] = {
                name: {key: min(each[name][key] for each in found[1:]) for key in found[0][name]}
                for name in makers
            }
            print(kind, solver, rows[kind][solver], flush=True)
    path = record.write({"torchdeq": "0.1.0", "problems": rows}, results)
    print(f"Written to {path}")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=Config.repeats)
    parser.add_argument("--device", default=Config.device)
    main(Config(**vars(parser.parse_args())))
