"""Rows that are measured elsewhere, or in processes of their own: flows, steps, paths, starts."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import batched_paths
from experiments.results import ROOT
from solvers import ODE, ArcLength, InitialValue, RungeKutta, solve

from .problems import race, waits

STEPS = (
    "float32, Unroll", "float32, Unroll, RungeKutta", "float32, Unroll(checkpoint=1), RungeKutta",
    "float32, Unroll, rk4 in 5", "float32, Reversible, rk4 in 5", "bfloat16, Unroll",
    "bfloat16, Unroll, RungeKutta",
)  # fmt: skip
LOADED = ("import torch", "import homotopy_deq", "from homotopy_deq import ImplicitLayer")


def flow(device: str = "cpu", repeats: int = 30) -> dict[str, Any]:
    """Time dopri5 on dz/dt = tanh(W z + c) - z over [0, 5], 64 x 256, at 1e-3, beside peers."""
    import torchdiffeq

    draw = torch.Generator().manual_seed(11)
    weight = (torch.randn(256, 256, generator=draw) / 256**0.5).to(device)
    c = torch.randn(64, 256, generator=draw).to(device)
    z0, counts = torch.zeros_like(c), [0]

    def field(t: Tensor, z: Tensor, c: Tensor = c) -> Tensor:
        counts[0] += 1
        return torch.tanh(torch.addmm(c, z, weight)) - z

    problem = InitialValue(field, 0.0, 5.0, (c,), rowwise=True)
    ends = torch.tensor([0.0, 5.0], device=device)
    limits = {"rtol": 1e-3, "atol": 1e-3}
    calls: dict[str, Callable[[], Any]] = {
        "RungeKutta()": lambda: solve(problem, RungeKutta(**limits), z0),
        "ODE(), torchdiffeq's": lambda: solve(problem, ODE(**limits), z0),
        "torchdiffeq": lambda: torchdiffeq.odeint(field, z0, ends, **limits),
    }
    missing = {}
    try:
        import torchode
    except ImportError:
        missing["torchode"] = "not installed"
    else:
        term = torchode.ODETerm(field)
        control = torchode.IntegralController(term=term, **limits)
        solver = torchode.AutoDiffAdjoint(torchode.Dopri5(term=term), control)
        span = {"t_start": ends[:1].expand(64), "t_end": ends[1:].expand(64)}
        calls["torchode"] = lambda: solver.solve(torchode.InitialValueProblem(y0=z0, **span))
    evaluations = {}
    with torch.no_grad():
        for name, call in calls.items():
            counts[0] = 0
            call()
            evaluations[name] = counts[0]
        times = race(calls, repeats)
        return missing | {
            name: {
                "ms": vars(times[name]),
                "calls of f": evaluations[name],
                **waits(call, device),
            }
            for name, call in calls.items()
        }


def steps(rounds: int = 3, of: Sequence[str] = STEPS) -> dict[str, Any]:
    """Time a training step of HomoODE, CIFAR-10 configuration, cases in turn, each in a process."""
    found: dict[str, list[dict[str, Any]]] = {case: [] for case in of}
    for _ in range(rounds):
        for case in of:
            words = ["-m", "experiments.cifar_step", *case.split(", ", 1)]
            found[case].append(json.loads(_python(words).splitlines()[-1]))
    idle = _python(["-c", "import resource, homotopy_deq.models, torchdiffeq;"
                    "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"])  # fmt: skip
    rows: dict[str, Any] = {
        case: {
            "step, s": _spread([each["step, s"] for each in runs]),
            "evaluations forward": runs[0]["evaluations forward"],
            "first loss": runs[0]["first loss"],
            "peak memory, MiB": max(each["peak memory, MiB"] for each in runs),
        }
        for case, runs in found.items()
    }
    return {"idle process, MiB": round(int(idle.split()[-1]) / 2**10), "cases": rows}


def paths(config: batched_paths.Config = batched_paths.Config(gains=(1.6,))) -> dict[str, Any]:  # noqa: B008
    """Time 256 paths of gain 1.6 at once, and those that SciPy's loop follows one at a time."""
    with torch.no_grad():
        ours = batched_paths.measure(config, 1.6, ArcLength(rtol=config.rtol))
        peers = batched_paths.peers(config, 1.6)
    loop = config.paths * peers["scipy loop, seconds for one"]
    together = statistics.median(ours["seconds for all at once"])
    return ours | peers | {"scipy's loop over ours": loop / together}


def demo() -> dict[str, Any]:
    """Train the model of `make demo`, and count the evaluations of each forward pass on it."""
    with tempfile.TemporaryDirectory() as folder:
        _python(["-m", "experiments.demo"], Path(folder))
        text = (Path(folder) / "runs" / "demo" / "demo.json").read_text()
    passes = json.loads(text)["result"]["forward passes"]
    return {
        name: {"evaluations": row["nfe"], "worst residual": row["residual_worst"]}
        for name, row in passes.items()
    }


def loading(repeats: int = 5) -> dict[str, Any]:
    """Time what a new process takes to import and to print its help, in CPU seconds of its own."""
    commands = {code: ["-c", code] for code in LOADED}
    commands["homotopy-deq --help"] = ["-m", "homotopy_deq.cli", "--help"]
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, words in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            _python(words)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
            found[name].append(spent)
    return {name: _spread(each) for name, each in found.items()}


def _python(words: Sequence[str], folder: Path = ROOT) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    return done.stdout


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(seconds), "low": min(seconds), "high": max(seconds)}
