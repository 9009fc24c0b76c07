"""Solve for the equilibria of one trained DEQ by every solver, and compare each pair.

    python -m experiments.agreement

Trains a small DEQ on the built-in digits, takes 256 test images, and writes the largest relative
difference ||z_a - z_b|| / ||z_b|| of a sample for each pair of solvers, in float32 and float64.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from experiments.results import Record, bare
from homotopy_deq import (
    DEQ,
    Anderson,
    Broyden,
    Continuation,
    Flow,
    NewtonKrylov,
    Picard,
    PseudoTransient,
)
from homotopy_deq.data import load
from homotopy_deq.training import TrainConfig, train
from solvers import Solution, Solver

SOLVERS: dict[str, Solver[Any, Any]] = {
    "Picard": Picard(max_steps=2000),
    "Anderson": Anderson(max_steps=500),
    "Broyden": Broyden(max_steps=500),
    "NewtonKrylov": NewtonKrylov(),
    "PseudoTransient": PseudoTransient(),
    "SteadyState": Flow(),  # its name in the record
    "Continuation": Continuation(),
}


@dataclass(frozen=True)
class Config:
    """A DEQ on the digits, and how tightly its equilibria are solved for."""

    epochs: int = 4
    hidden: int = 32
    head: int = 128
    images: int = 256
    rtol32: float = 2e-6
    rtol64: float = 1e-11
    seed: int = 0


def main(config: Config) -> dict[str, Any]:
    """Train, solve, compare; print the table and write experiments/results/agreement.json."""
    record = Record("agreement", config)
    torch.manual_seed(config.seed)
    data = load("digits")
    model = DEQ(
        data.shape, data.num_classes, hidden=config.hidden, head=config.head, groups=8,
        mean=data.mean, std=data.std,
    )  # fmt: skip
    settings = TrainConfig(epochs=config.epochs, lr=3e-3, residual_penalty=0.1, seed=config.seed)
    with tempfile.TemporaryDirectory() as folder:
        outcome = train(model, data, settings, Path(folder))
    model.eval()
    images = data.test_images[: config.images].float() / 255
    result: dict[str, Any] = {"data": data.source, "test accuracy": outcome.test["accuracy"]}
    for dtype, rtol in ((torch.float32, config.rtol32), (torch.float64, config.rtol64)):
        name = str(dtype).removeprefix("torch.")
        of, seen = model.to(dtype), images.to(dtype)
        result[name] = compare(lambda s, of=of, seen=seen: of.with_solver(s).solve(seen).solution,
                               rtol, name)  # fmt: skip
    table(result)
    Console().print(f"Written to {record.write(result)}")
    return result


@torch.no_grad()
def compare(
    solved: Callable[[Solver[Any, Any]], Solution[Any]],
    rtol: float,
    name: str,
    of: Mapping[str, Solver[Any, Any]] = SOLVERS,
) -> dict[str, Any]:
    """Return every solver's evaluations and residual, and each pair's largest difference
    among the samples that both have solved, where there are any.

    Arguments:
        solved: returns what a solver finds.
        rtol: the tolerance of all.
        name: shown meanwhile.
        of: the solvers.
    """
    answers, solvers, solved_by = {}, {}, {}
    for label, solver in track(of.items(), description=f"solving in {name}"):
        begin = time.perf_counter()
        found = solved(replace(solver, rtol=rtol))
        solvers[label] = {
            "evaluations": float(found.evals.double().mean()),
            "largest residual": float(found.residual.max()),
            "converged": int(found.converged.sum()),
            "seconds": round(time.perf_counter() - begin, 2),
        }
        answers[label], solved_by[label] = found.value.double().flatten(1), found.converged

    pairs = {}
    for a, b in ((a, b) for i, a in enumerate(of) for b in list(of)[:i]):
        both = solved_by[a] & solved_by[b]
        if both.any():
            far = (answers[a] - answers[b]).norm(dim=1) / answers[b].norm(dim=1)
            pairs[f"{a} - {b}"] = float(far[both].max())
    return {"rtol": rtol, "solvers": solvers, "pairs": pairs, "worst pair": max(pairs.values())}


def table(result: dict[str, Any]) -> None:
    """Print the lower triangle: float64 differences, one row a solver (Markdown)."""
    names = list(SOLVERS)
    lines = ["| | " + " | ".join(names[:-1]) + " |", "|---" * len(names) + "|"]
    for i, a in enumerate(names[1:], 1):
        cells = [
            f"{result['float32']['pairs'][f'{a} - {b}']:.0e} / "
            f"{result['float64']['pairs'][f'{a} - {b}']:.0e}"
            for b in names[:i]
        ]
        lines.append(f"| {a} | " + " | ".join(cells + [""] * (len(names) - 1 - i)) + " |")
    print("\n".join(lines))


if __name__ == "__main__":
    bare(__doc__)
    main(Config())
