"""Who solves MINPACK's hard systems: every root solver beside scipy's hybr and krylov.

    python -m experiments.conformance       # experiments/results/conformance.json

F(z) = 0 is given as z = z - F(z). The batch is the standard start and draws about it, moved by a
normal of a tenth of 1 + |z|; a solver takes them all at once, scipy one by one. An answer counts
where ||F|| <= 1e-8 at it, whatever the solver says of it; one that a solver calls a root and that
is none is counted too. Evaluations are of F and of products with its Jacobian, which cost about
two; scipy's are of F alone, as it differences.

References:
    J. More, B. Garbow, K. Hillstrom (1981), Testing unconstrained optimization software.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy import optimize
from torch import Tensor

from experiments.parts import Parts
from experiments.results import RESULTS, Record
from solvers import (
    Anderson,
    ArcLength,
    Broyden,
    Continuation,
    Equilibrium,
    Flow,
    NewtonKrylov,
    Picard,
    PseudoTransient,
    Robust,
    Solver,
    solve,
)
from solvers.homotopy import Newton
from tests.minpack import SYSTEMS

NAMES = (
    "Rosenbrock", "Powell singular", "helical valley", "Watson", "Chebyquad",
    "Brown almost linear", "discrete boundary value", "Broyden tridiagonal", "Broyden banded",
)  # fmt: skip
PEERS = ("hybr", "krylov")
AWAY = 0.1  # of a start from the standard one, relative to 1 + |z|


@dataclass(frozen=True)
class Config:
    """The sizes.

    Arguments:
        starts: how many, the standard one first.
        steps: the most that an iteration takes; a path has its own bound.
        budget: evaluations that a peer may use.
    """

    starts: int = 20
    steps: int = 500
    budget: int = 5000
    atol: float = 1e-8
    systems: tuple[str, ...] = NAMES
    device: str = "cpu"
    seed: int = 0


def solvers(config: Config) -> Mapping[str, Solver[Equilibrium, Any]]:
    """Return the solvers by name: iterations as they are by default, and paths."""
    given: dict[str, Any] = {"rtol": 0.0, "atol": config.atol}
    steps = {**given, "max_steps": config.steps}
    return {
        "Picard": Picard(**steps),
        "Anderson": Anderson(**steps),
        "Broyden": Broyden(**steps),
        "NewtonKrylov": NewtonKrylov(**steps),
        "PseudoTransient": PseudoTransient(**steps),
        "Flow": Flow(**steps),
        "Continuation": Continuation(**given),
        "ArcLength": ArcLength(**given),
        "ArcLength, Newton's homotopy": ArcLength(**given, homotopy=Newton()),
        "Robust": Robust(**given),
    }


def starts(config: Config, name: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """Return a system and where it is begun, (starts, n), float64."""
    system, standard = SYSTEMS[name]
    random = torch.Generator().manual_seed(config.seed)
    noise = torch.randn(config.starts, standard.shape[1], generator=random, dtype=torch.float64)
    noise[0] = 0
    return system, (standard + AWAY * (1 + standard.abs()) * noise).to(config.device)


def row(solved: list[bool], called: list[bool], evals: list[int]) -> dict[str, Any]:
    """Return what is told of one solver on one system."""
    cost = [n for n, good in zip(evals, solved, strict=True) if good]
    return {
        "solved": sum(solved),
        "of": len(solved),
        "the standard start": solved[0],
        "called a root and none": sum(c and not s for c, s in zip(called, solved, strict=True)),
        "median evaluations": median(cost) if cost else None,
    }


def ours(config: Config, name: str, solver: Solver[Equilibrium, Any]) -> dict[str, Any]:
    """Solve all starts in one batch."""
    system, z0 = starts(config, name)
    found = solve(Equilibrium(lambda z: z - system(z), rowwise=True), solver, z0)
    solved = (system(found.value).norm(dim=1) <= 1.01 * config.atol).tolist()
    return row(solved, found.converged.tolist(), found.evals.tolist())


class Spent(Exception):
    """A peer has used its budget."""


def peer(config: Config, name: str, method: str) -> dict[str, Any]:
    """Solve each start by scipy."""
    system, z0 = starts(config, name)
    solved, called, evals = [], [], []
    for start in z0.cpu():
        count = 0

        def fun(z: Any) -> Any:
            nonlocal count
            count += 1
            if count > config.budget:
                raise Spent
            return system(torch.as_tensor(z)[None])[0].numpy()

        options = {"xtol": 1e-15} if method == "hybr" else {"fatol": config.atol / 10}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of overflow, on its way
                found = optimize.root(fun, start.numpy(), method=method, options=options)
        except (Spent, ValueError, FloatingPointError):  # or not finite
            good = success = False
        else:
            end = system(torch.as_tensor(found.x)[None])
            good, success = bool(end.norm() <= 1.01 * config.atol), bool(found.success)
        solved.append(good)
        called.append(success)
        evals.append(count)
    return row(solved, called, evals)


def main(config: Config, work: Path, results: Path = RESULTS) -> None:
    """Measure each solver on each system; print the table and write conformance.json."""
    record, parts, console = Record("conformance", config), Parts(work, config), Console()
    table = Table("solver", *config.systems, title=f"solved of {config.starts} (evaluations)")
    found: dict[str, dict[str, Any]] = {}
    cases: dict[str, Callable[[str], dict[str, Any]]] = {
        name: lambda system, s=solver: ours(config, system, s)  # type: ignore[misc]
        for name, solver in solvers(config).items()
    }
    cases |= {f"scipy {m}": lambda system, m=m: peer(config, system, m) for m in PEERS}  # type: ignore[misc]
    for solver, measure in cases.items():
        rows = found[solver] = {
            name: parts(f"{solver}, {name}", lambda m=measure, n=name: m(n))  # type: ignore[misc]
            for name in config.systems
        }
        table.add_row(solver, *(shown(each) for each in rows.values()))
    console.print(table)
    console.print(f"Written to {record.write(found, results)}")


def shown(row: Mapping[str, Any]) -> str:
    """Write a cell: how many are solved, by how many evaluations, and what is wrongly called so."""
    cost = "" if row["median evaluations"] is None else f" ({row['median evaluations']:.0f})"
    wrong = row["called a root and none"]
    return f"{row['solved']}{cost}" + (f", {wrong} false" if wrong else "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--work", type=Path, default=Path("runs/conformance"))
    parser.add_argument("--starts", type=int, default=Config.starts)
    chosen = parser.parse_args()
    main(Config(device=chosen.device, starts=chosen.starts), chosen.work)
