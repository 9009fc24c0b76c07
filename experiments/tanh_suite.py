"""Success of solvers on random equilibria z = tanh(W z + b), and what a success costs.

    python -m experiments.tanh_suite [n] [draws] [float32|float64] [gain ...]

W_ij ~ N(0, gain^2/n), b ~ N(0, 1/4), from 0; solved means ||f(z) - z|| <= tolerance ||f(z)||,
checked here for every solver alike. `reference_tracker.py` says which draws have a root that the
path from 0 leads to; a draw that it solves and ArcLength or Robust does not is listed with them,
"missed". Writes experiments/results/tanh_suite_<n>_<dtype>.json.

Above 100 unknowns our solvers take the draws one by one, as they have no weights in common (200
of 512 x 512 are multiplied no faster together), and the slow ones take the first draws only: each
row says how many.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from experiments.reference_tracker import track
from experiments.results import Record
from solvers import (
    Anderson,
    ArcLength,
    Continuation,
    Equilibrium,
    PseudoTransient,
    Robust,
    Solver,
    solve,
    solved_by,
)


@dataclass(frozen=True)
class Config:
    seed: int = 0
    n: int = 50
    draws: int = 200
    dtype: str = "float64"
    gains: tuple[float, ...] = (0.5, 1.6, 2.0, 3.0)
    peers: int = 40  # draws for the peers, which solve one at a time
    reference: int = 200  # draws for the reference tracker
    ladder: int = 200  # draws for Robust
    budget: int = 2000  # evaluations that a peer may use

    @property
    def rtol(self) -> float:
        return 1e-6 if self.dtype == "float64" else 1e-5


ALONE = 100  # unknowns above which the draws are taken one by one

Draws = tuple[Equilibrium, Tensor]


def suite(gain: float, config: Config) -> Draws:
    dtype = getattr(torch, config.dtype)
    g = torch.Generator().manual_seed(config.seed)
    n, draws = config.n, config.draws
    w = torch.randn(draws, n, n, generator=g, dtype=dtype) * gain / n**0.5
    b = torch.randn(draws, n, generator=g, dtype=dtype) * 0.5
    cell = lambda z, w, b: torch.tanh(torch.bmm(w, z[:, :, None])[:, :, 0] + b)  # noqa: E731
    return Equilibrium(cell, (w, b)), torch.zeros(draws, n, dtype=dtype)


def good(problem: Equilibrium, z: Tensor, rtol: float) -> Tensor:
    fz = problem(z)
    return (fz - z).norm(dim=1) <= 1.01 * rtol * fz.norm(dim=1)


def single(problem: Equilibrium, k: int) -> Equilibrium:
    """Return the problem of one draw, with its weights in the map."""
    assert problem.condition is not None
    w, b = problem.condition[0][k], problem.condition[1][k : k + 1]
    return Equilibrium(lambda z, b: torch.tanh(z @ w.mT + b), (b,))


def referee(config: Config, draws: Draws) -> tuple[list[bool], dict[str, Any]]:
    """Return which of the first draws the reference tracker solves, and its row."""
    problem, z0 = draws
    assert problem.condition is not None
    began = time.perf_counter()
    w, b = (x[: config.reference].double().numpy() for x in problem.condition)
    paths = [track(w[k], b[k]) for k in range(len(w))]
    solved = [path.root is not None for path in paths]
    row = _row(solved, [path.steps for path in paths], time.perf_counter() - began)
    row["median steps of a success"] = row.pop("median evaluations of a success")
    row["median evaluations of a success"] = None  # its Jacobians are written by hand
    row["failures"] = {str(k): path.reason for k, path in enumerate(paths) if path.root is None}
    return solved, row


def ours(
    config: Config, solver: Solver[Equilibrium, Any], draws: Draws, reachable: list[bool]
) -> dict[str, Any]:
    problem, z0 = draws
    count = min(config.ladder, len(z0)) if isinstance(solver, Robust) else len(z0)
    began = time.perf_counter()
    if config.n <= ALONE:
        found = [solve(problem, solver, z0)]
    else:
        found = [solve(single(problem, k), solver, z0[:1]) for k in range(count)]
    seconds = time.perf_counter() - began
    part = problem.rows(torch.arange(count))
    solved = good(part, torch.cat([each.value for each in found]), config.rtol)
    label = torch.cat([each.converged for each in found])
    row = _row(solved.tolist(), torch.cat([each.evals for each in found]).tolist(), seconds)
    row["labelled converged above tolerance"] = int((label & ~solved).sum())
    if isinstance(solver, ArcLength | Robust):
        failed = (~solved).nonzero().flatten().tolist()
        row["failed draws"] = failed
        row["missed"] = [k for k in failed if k < len(reachable) and reachable[k]]
    if isinstance(solver, Robust):
        counts = [solved_by(solver, each) for each in found]
        row["solved by"] = {name: sum(each[name] for each in counts) for name in counts[0]}
    return row


def scipy_peer(config: Config, method: str, draws: Draws) -> dict[str, Any]:
    from scipy.optimize import root

    problem, z0 = draws
    solved, evals = [], []
    began = time.perf_counter()
    for k in range(min(config.peers, len(z0))):
        assert problem.condition is not None  # in float64: scipy differences, with steps of 1e-8
        row = tuple(x[k : k + 1].double() for x in problem.condition)
        one, count = Equilibrium(problem.map, row), [0]

        def residual(z: Any, one: Equilibrium = one, count: list[int] = count) -> Any:
            count[0] += 1
            return one.residual(torch.from_numpy(z)[None])[0].numpy()

        # The tolerance is that of the residual's norm, with ||f(z)|| of about sqrt(n) / 2.
        size = config.rtol * config.n**0.5 / 2
        options: dict[str, dict[str, Any]] = {
            "hybr": {"xtol": config.rtol / 10, "maxfev": config.budget},
            "krylov": {"fatol": size / config.n**0.5, "maxiter": 100},
            "df-sane": {"fatol": size, "ftol": 0.0, "maxfev": config.budget},
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                z = root(residual, z0[k].double().numpy(), method=method, options=options[method]).x
                value = torch.from_numpy(z)[None]
                solved.append(bool(good(one, value, config.rtol)))
            except Exception:  # krylov raises where its Jacobian breaks down: a failure like any
                solved.append(False)
        evals.append(count[0])
    return _row(solved, evals, time.perf_counter() - began)


def torchdeq_peer(config: Config, method: str, draws: Draws) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        import torchdeq.solver as peers

    method_of: Callable[..., Any] = peers.get_solver(method)
    problem, z0 = draws
    solved, evals = [], []
    began = time.perf_counter()
    for k in range(min(config.peers, len(z0))):  # alone: its stopping rule couples a batch
        one, count = problem.rows(torch.tensor([k])), [0]

        def f(z: Tensor, one: Equilibrium = one, count: list[int] = count) -> Tensor:
            count[0] += 1
            return one(z)

        z = method_of(f, z0[k : k + 1], max_iter=200, tol=config.rtol, stop_mode="rel")[0]
        solved.append(bool(good(one, z.view_as(z0[:1]), config.rtol)))
        evals.append(count[0])
    return _row(solved, evals, time.perf_counter() - began)


def _row(solved: list[bool], evals: list[int], seconds: float) -> dict[str, Any]:
    costs = [count for count, ok in zip(evals, solved, strict=True) if ok]
    return {
        "solved %": round(100 * sum(solved) / len(solved), 2),
        "median evaluations of a success": median(costs) if costs else None,
        "draws": len(solved),
        "seconds": round(seconds, 2),
    }


def rows(config: Config, gain: float) -> Iterator[tuple[str, dict[str, Any]]]:
    draws = suite(gain, config)
    settings: dict[str, Any] = {"rtol": config.rtol}
    reachable, row = referee(config, draws)
    yield "reference tracker", row
    local = [Anderson(**settings), Continuation(**settings), PseudoTransient(**settings)]
    chosen = local if config.n <= ALONE else local[:1]
    for solver in (*chosen, ArcLength(**settings), Robust(**settings)):
        yield type(solver).__name__, ours(config, solver, draws, reachable)
    for method in ("hybr", "krylov", "df-sane"):
        yield f"scipy {method}", scipy_peer(config, method, draws)
    for method in ("fixed_point_iter", "anderson", "broyden"):
        yield f"torchdeq {method}", torchdeq_peer(config, method, draws)


def main(config: Config = Config()) -> None:  # noqa: B008  (frozen)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    name = f"tanh_suite_{config.n}_{config.dtype}"
    if config.gains != Config.gains:
        name += "_gain_" + "_".join(f"{gain:g}" for gain in config.gains)
    record = Record(name, config)
    table: dict[str, Any] = {}
    for gain in config.gains:
        table[str(gain)] = {}
        for solver, row in rows(config, gain):
            table[str(gain)][solver] = row
            print(gain, solver, row, flush=True)
            record.write({"relative residual": config.rtol, "by gain": table})


def parse(words: list[str]) -> Config:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("n", nargs="?", type=int, default=50, help="unknowns of an equation")
    parser.add_argument("draws", nargs="?", type=int, default=200, help="equations of a gain")
    parser.add_argument("dtype", nargs="?", choices=("float32", "float64"), default="float64")
    parser.add_argument("gains", nargs="*", type=float, default=Config.gains, metavar="gain")
    given = parser.parse_args(words)
    n, few = given.n, given.n > ALONE
    return Config(
        n=n, draws=given.draws, dtype=given.dtype, gains=tuple(given.gains),
        peers=10 if few else 40, reference=20 if few else 200, ladder=50 if few else 200,
        budget=(20 if few else 40) * n,
    )  # fmt: skip


if __name__ == "__main__":
    main(parse(sys.argv[1:]))
