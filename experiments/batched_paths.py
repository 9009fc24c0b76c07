"""Track 256 paths at once and one at a time, and set both beside pycont-lite and a scipy loop.

    python -m experiments.batched_paths       (pip install pycont-lite for that peer)

The paths z = lambda tanh(W z + b_k) share W, of spectral radius `gain`, and differ in b_k.
All methods end at residuals below 1e-5 ||f(z)||, on one thread, ours in float32 and the peers in
float64, as they are made. Ours and two of the peers know f alone: ours differentiates it, the peers
difference it. The third is given the Jacobian written by hand.
"""

from __future__ import annotations

import contextlib
import io
import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.results import Record, bare
from solvers import GMRES, ArcLength, Equilibrium, solve

SCIPY = {"scipy loop": False, "scipy loop, Jacobian by hand": True}


@dataclass(frozen=True)
class Config:
    seed: int = 0
    paths: int = 256
    n: int = 50
    gains: tuple[float, ...] = (0.9, 1.6)
    alone: int = 16  # paths timed one at a time
    peers: int = 8  # paths given to the peers
    repeats: int = 3
    rtol: float = 1e-5


def equation(config: Config, gain: float) -> tuple[Equilibrium, Tensor, Tensor, Tensor]:
    """Return the problem, its start, and W and b in float64 for the peers."""
    g = torch.Generator().manual_seed(config.seed)
    w = torch.randn(config.n, config.n, generator=g) * gain / config.n**0.5
    b = torch.randn(config.paths, config.n, generator=g) * 0.5
    problem = Equilibrium(lambda z, b: torch.tanh(z @ w.T + b), (b,))
    return problem, torch.zeros(config.paths, config.n), w.double(), b.double()


def measure(config: Config, gain: float, solver: ArcLength) -> dict[str, Any]:
    problem, z0, _, _ = equation(config, gain)
    solve(problem.rows(torch.arange(2)), solver, z0[:2])
    batch = []
    for _ in range(config.repeats):
        began = time.perf_counter()
        together = solve(problem, solver, z0)
        batch.append(time.perf_counter() - began)
    chosen = torch.linspace(0, config.paths - 1, config.alone).long()
    began = time.perf_counter()
    singles = [solve(problem.rows(k[None]), solver, z0[:1]) for k in chosen]
    single = (time.perf_counter() - began) / config.alone
    off = [
        float((one.value[0] - together.value[k]).norm() / together.value[k].norm())
        for one, k in zip(singles, chosen, strict=True)
    ]
    return {
        "converged": int(together.converged.sum()),
        "seconds for all at once": [round(each, 3) for each in sorted(batch)],
        "seconds for one": round(single, 4),
        "speed-up over one at a time": round(single * config.paths / median(batch), 1),
        "largest relative difference": max(off),
        "evaluations a path at once": float(together.evals.float().mean()),
        "evaluations a path alone": float(sum(one.evals.item() for one in singles) / config.alone),
        "steps of the longest path": int(together.steps.max()),
    }


def peers(config: Config, gain: float) -> dict[str, Any]:
    _, _, weights, b = equation(config, gain)
    w = weights.numpy()
    out: dict[str, Any] = {}
    for name, by_hand in SCIPY.items():
        scipy_path(w, b[0].numpy(), config.rtol, by_hand)  # the first call imports
        began = time.perf_counter()
        done = sum(scipy_path(w, each.numpy(), config.rtol, by_hand) for each in b[: config.peers])
        out[f"{name}, seconds for one"] = round((time.perf_counter() - began) / config.peers, 4)
        out[f"{name}, solved"] = f"{done} of {config.peers}"
    try:
        from pycont import Verbosity, arclengthContinuation
    except ImportError:
        out["pycont-lite"] = "not installed"
        return out
    began, done = time.perf_counter(), 0
    for k in range(config.peers):
        bias = b[k].numpy()
        g = lambda u, p, bias=bias: u - p * np.tanh(w @ u + bias)  # noqa: E731
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
            found = arclengthContinuation(
                g, np.zeros(config.n), 0.0, 1e-4, 2.0, 0.3, 500,
                solver_parameters={
                    "tolerance": config.rtol, "bifurcation_detection": False,
                    "analyze_stability": False, "initial_directions": "increase_p",
                    "param_max": 1.0,
                },
                verbosity=Verbosity.OFF,
            )  # fmt: skip
            done += any(float(np.max(branch.p_path)) >= 1 - 1e-9 for branch in found.branches)
    out["pycont-lite, seconds for one"] = round((time.perf_counter() - began) / config.peers, 3)
    out["pycont-lite, paths past lambda = 1"] = f"{done} of {config.peers}"
    return out


def scipy_path(w: Any, b: Any, rtol: float, by_hand: bool) -> bool:
    """Follow one path by pseudo-arclength with scipy's hybrid Powell method as the corrector.

    Arguments:
        w, b: the weights.
        rtol: of the root.
        by_hand: use the Jacobian written out; if not, it is differenced.
    """
    from scipy.optimize import approx_fprime, root

    n = len(b)

    def gap(y: Any) -> Any:
        return y[:n] - y[n] * np.tanh(w @ y[:n] + b)

    def slope(y: Any) -> Any:
        if not by_hand:
            return approx_fprime(y, gap)
        t = np.tanh(w @ y[:n] + b)
        return np.hstack((np.eye(n) - y[n] * (1 - t * t)[:, None] * w, -t[:, None]))

    y, ds = np.zeros(n + 1), 0.3
    tangent = np.zeros(n + 1)
    tangent[n] = 1.0
    for _ in range(500):
        bordered = np.vstack((slope(y), tangent))
        t = np.linalg.solve(bordered, np.eye(n + 1)[n])
        t /= np.linalg.norm(t)
        plane = lambda v, y=y, t=t, ds=ds: np.append(gap(v), t @ (v - y) - ds)  # noqa: E731
        steeper = lambda v, t=t: np.vstack((slope(v), t))  # noqa: E731
        jac = steeper if by_hand else None
        found = root(plane, y + ds * t, jac=jac, method="hybr", options={"xtol": 1e-6})
        step = np.linalg.norm(found.x - y)
        if not found.success or ds < 0.86 * step:
            ds /= 2
            if ds < 1e-6:
                return False
            continue
        y, tangent, ds = found.x, t, min(1.3 * ds, 2.0)
        if y[n] >= 1:
            end = root(lambda z: z - np.tanh(w @ z + b), y[:n], method="hybr")
            return bool(np.linalg.norm(end.fun) <= rtol * np.linalg.norm(end.x))
    return False


def main(config: Config = Config()) -> None:  # noqa: B008  (frozen)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    record = Record("batched_paths", config)
    table: dict[str, Any] = {}
    for gain in config.gains:
        kinds = {
            "ArcLength()": ArcLength(rtol=config.rtol),
            "ArcLength(linear=GMRES(100))": ArcLength(rtol=config.rtol, linear=GMRES(100)),
        }
        rows: dict[str, Any] = {
            name: measure(config, gain, solver) for name, solver in kinds.items()
        } | {"peers": peers(config, gain)}
        default = median(rows["ArcLength()"]["seconds for all at once"])
        for name in (*SCIPY, "pycont-lite"):
            one = rows["peers"].get(f"{name}, seconds for one")
            if one is not None:
                rows[f"times faster than {name}"] = round(one * config.paths / default, 1)
        table[str(gain)] = rows
        print(gain, rows, flush=True)
    access = {
        "ArcLength": "f alone, by automatic differentiation",
        "scipy loop": "f alone, by differences",
        "pycont-lite": "f alone, by differences",
        "scipy loop, Jacobian by hand": "f and its Jacobian",
    }
    record.write({"what each is given": access, "by gain": table})


if __name__ == "__main__":
    bare(__doc__)
    main()
