"""Every gradient rule beside float64 autograd: its error, its seconds and its peak memory.

    python -m experiments.gradients       # experiments/results/gradients.json, some 2 minutes

Of an equilibrium z = tanh(W z + x) with a W whose Jacobian has norm about 0.8, and of the flow
dz/dt = tanh(W z + x) on [0, 1], by 10 and by 200 steps. The reference is autograd in float64
through Picard to 1e-12, or through rk4 in 400 steps. The error is that of dL/dW, relative; of 10
steps it holds what the forward pass lacks as well. Peak memory is what torch's tensors held at
most, forward and backward, in states of the batch, as torch's profiler tells of the allocator;
nodes of a graph are not in it. A rule that refuses says so in the table.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.memory import peak_bytes
from experiments.parts import Parts
from experiments.results import RESULTS, Record
from solvers import (
    ODE,
    RK4,
    SHINE,
    Adjoint,
    Anderson,
    Broyden,
    Equilibrium,
    Implicit,
    InitialValue,
    Phantom,
    Picard,
    Reversible,
    RungeKutta,
    Unroll,
)

NEVER = 1e-14  # a tolerance that no case reaches, so that each takes all its steps
Case = tuple[Any, Callable[[int], Any], torch.dtype]


@dataclass(frozen=True)
class Config:
    """The sizes."""

    batch: int = 64
    width: int = 256
    norm: float = 0.8
    steps: tuple[int, ...] = (10, 200)
    repeats: int = 5
    device: str = "cpu"
    seed: int = 0


def picard(damping: float = 1.0) -> Callable[[int], Picard]:
    """Return what makes a solver that takes so many steps."""
    return lambda steps: Picard(rtol=NEVER, damping=damping, max_steps=steps)


def equal(steps: int) -> RungeKutta:
    """Return rk4 in so many steps."""
    return RungeKutta(RK4, step_size=1 / steps)


def roots() -> dict[str, Case]:
    """Return the rules of an equilibrium, each with its path and precision."""
    single, double = torch.float32, torch.float64
    linear = Anderson(rtol=1e-6)
    return {
        "Implicit()": (Implicit(), picard(), single),
        "Unroll()": (Unroll(), picard(), single),
        "Unroll(checkpoint=4)": (Unroll(checkpoint=4), picard(), single),
        "Unroll(checkpoint=14)": (Unroll(checkpoint=14), picard(), single),
        "Phantom(), JFB": (Phantom(), picard(), single),
        "Phantom(5, 0.5)": (Phantom(5, 0.5), picard(), single),
        "SHINE()": (SHINE(), broyden, single),
        "SHINE(Anderson())": (SHINE(linear), broyden, single),
        "Implicit(), of Broyden": (Implicit(linear), broyden, single),
        "Reversible(), beta .5": (Reversible(), picard(0.5), single),
        "Reversible(), beta .8": (Reversible(), picard(0.8), single),
        "Reversible(), beta .5, float64": (Reversible(), picard(0.5), double),
        "Reversible(), beta .05, float64": (Reversible(), picard(0.05), double),
    }


def broyden(steps: int) -> Broyden:
    """Return Broyden's method in so many steps at most; it has converged before the 200th."""
    return Broyden(rtol=1e-6, max_steps=steps)


def flows() -> dict[str, Case]:
    """Return the rules of a flow."""
    single = torch.float32
    return {
        "Unroll()": (Unroll(), equal, single),
        "Unroll(checkpoint=1)": (Unroll(checkpoint=1), equal, single),
        "Unroll(checkpoint=14)": (Unroll(checkpoint=14), equal, single),
        "Reversible(0.01)": (Reversible(0.01), equal, single),
        "Reversible(), coupling .1": (Reversible(), equal, single),
        "Adjoint()": (Adjoint(), lambda steps: ODE("rk4", step_size=1 / steps), single),
    }


def drawn(config: Config, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return W, x and dL/dz*, the same numbers in every precision."""
    random = torch.Generator().manual_seed(config.seed)
    double = {"generator": random, "dtype": torch.float64}
    w = torch.randn(config.width, config.width, **double)  # type: ignore[call-overload]
    w = w * config.norm / torch.linalg.matrix_norm(w, 2)
    x, v = torch.randn(2, config.batch, config.width, **double)  # type: ignore[call-overload]
    w, x, v = (t.to(config.device, dtype) for t in (w, 0.3 * x, v))
    return w.requires_grad_(), x, v


def posed(kind: str, w: Tensor, x: Tensor) -> Any:
    """Return the equation."""
    if kind == "flow":
        return InitialValue(lambda t, z, x: torch.tanh(z @ w.mT + x), condition=(x,), rowwise=True)
    return Equilibrium(lambda z, x: torch.tanh(z @ w.mT + x), (x,), rowwise=True)


def exact(config: Config, kind: str) -> Tensor:
    """Return dL/dW by autograd in float64 through a path that leaves nothing to be added."""
    w, x, v = drawn(config, torch.float64)
    solver: Any = equal(400) if kind == "flow" else Picard(rtol=1e-12, max_steps=2000)
    found = Unroll().apply(posed(kind, w, x), solver, torch.zeros_like(x)).check()
    return torch.autograd.grad(found.value, w, v)[0]


def measure(config: Config, kind: str, case: Case, steps: int) -> dict[str, Any]:
    """Differentiate once for the error, then for memory, then for the least time of some."""
    rule, solver, dtype = case
    w, x, v = drawn(config, dtype)
    evals: list[int] = []

    def gradient() -> Tensor:
        found = rule.apply(posed(kind, w, x), solver(steps), torch.zeros_like(x))
        evals.append(int(found.evals.max()))
        return torch.autograd.grad(found.value, w, v)[0]

    wanted = exact(config, kind)
    try:
        got = gradient().double()
    except RuntimeError as error:
        if not str(error).startswith("Reversible"):
            raise
        return {"refused": str(error)}
    seconds = []
    for _ in range(config.repeats):
        begin = time.perf_counter()
        gradient()
        if config.device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return {
        "error": float((got - wanted).norm() / wanted.norm()),
        "seconds": min(seconds),
        "evaluations": evals[0],
        "peak, states": round(_peak(config, gradient) / (x.numel() * x.element_size()), 2),
    }


def _peak(config: Config, compute: Callable[[], object]) -> int:
    if config.device == "cpu":
        return peak_bytes(compute)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    compute()
    return torch.cuda.max_memory_allocated() - before


def main(config: Config, work: Path, results: Path = RESULTS) -> None:
    """Measure each rule; print the table and write gradients.json."""
    name = "gradients" + ("" if config.device == "cpu" else "_cuda")
    record, parts, console = Record(name, config), Parts(work, config), Console()
    found: dict[str, Any] = {}
    for kind, cases in (("equilibrium", roots()), ("flow", flows())):
        table = Table("rule", "steps", "error", "seconds", "peak, states", title=kind)
        for rule, case in cases.items():
            rows = found.setdefault(kind, {}).setdefault(rule, {})
            for n in config.steps:
                key = f"{kind}, {rule}, {n}"
                row = parts(key, lambda k=kind, c=case, n=n: measure(config, k, c, n))  # type: ignore[misc]
                rows[str(n)] = row
                shown = (
                    ("refused", "", "")
                    if "refused" in row
                    else (f"{row['error']:.1e}", f"{row['seconds']:.3f}", f"{row['peak, states']}")
                )
                table.add_row(rule, str(n), *shown)
        console.print(table)
    console.print(f"Written to {record.write(found, results)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--work", type=Path, default=Path("runs/gradients"))
    parser.add_argument("--batch", type=int, default=Config.batch)
    parser.add_argument("--width", type=int, default=Config.width)
    chosen = parser.parse_args()
    main(
        Config(device=chosen.device, batch=chosen.batch, width=chosen.width),
        chosen.work,
    )
