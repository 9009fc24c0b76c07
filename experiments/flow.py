"""Estimate optical flow at an equilibrium, and skip what has converged.

    python -m experiments.flow [--device cuda]
    python -m experiments.flow --device cpu --small --minutes 8

Sintel and KITTI are not here: views of real photographs are warped by known smooth flows
(`experiments.warping`), which is easier. A small recurrent-equilibrium network
(`experiments.flow_model`) is trained on crops of flower.jpg (scikit-learn) and grace_hopper.jpg
(matplotlib) and tested on crops of china.jpg, which it never saw, beside Lucas and Kanade's method
(`experiments.lucas_kanade`). As published: damped iteration with alpha = .9, 60 iterations,
thresholds around .005, starts from the frame before (`experiments.flow_sequence`).

Multiply-adds of the update block alone, the kernels' areas included: of the entries that change by
more than the threshold, or of all channels of the 4 x 4 tiles in which one does. The
correlations and the context's part of the gates are computed once on all sides.
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from experiments import flow_model
from experiments.flow_model import FlowNet, errors, read
from experiments.flow_sequence import follow
from experiments.lucas_kanade import lucas_kanade
from experiments.parts import Parts
from experiments.results import IMAGES, RESULTS, Record
from experiments.signals import photograph
from experiments.warping import pairs, sequence
from homotopy_deq import Anderson, Picard, plotting
from homotopy_deq.acceleration import Account, Entrywise, account, delta
from homotopy_deq.acceleration.convergence import settled
from solvers import Solver
from solvers.delta import Blocks, DeltaPicard

NEVER = 1e-12  # a relative residual that float32 does not reach
ALPHA = 0.9  # of the damped iteration, as published
TILE = 4  # cells of the state
MODULES = ("encoder", "gru", "head")
PAPER = {
    "FLOPs cut, Sintel / KITTI": "73% / 76% (Wang et al. 2024)",
    "EPE, DEQ-Flow-B": "Sintel clean / final 1.39 / 2.77; KITTI 4.46, F1 14.18",
}


@dataclass(frozen=True)
class Config:
    """The network, its training, and what is tried on it.

    Arguments:
        width: of the hidden state.
        view: pixels a side.
        reach: about the largest motion between the views of a pair, in pixels.
        steps: of training, at most.
        minutes: of training, at most.
        free: iterations without gradients, at most.
        motion: about the largest motion from frame to frame of a sequence, in pixels.
    """

    width: int = 48
    view: int = 96
    reach: float = 12.0
    steps: int = 20000
    minutes: float = 20.0
    batch: int = 32
    lr: float = 3e-3
    free: int = 12
    pairs: int = 128
    motion: float = 3.0
    frames: int = 12
    sequences: int = 16
    iterations: int = 60
    taus: tuple[float, ...] = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2)
    rtols: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2)
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    work: Path = Path("runs/flow")
    seed: int = 0


SMALL: dict[str, Any] = {
    "width": 24, "view": 64, "reach": 8.0, "minutes": 8.0, "batch": 8, "free": 8,
    "pairs": 32, "motion": 2.0, "frames": 8, "sequences": 4,
}  # fmt: skip
"""Sizes for one core."""


def trained(config: Config, parts: Parts) -> tuple[FlowNet, Any]:
    """Return the trained network, and what its training took."""
    torch.manual_seed(config.seed)
    net = FlowNet(config.width, damping=ALPHA, steps=config.iterations).to(config.device)
    photographs = [photograph(name).to(config.device) for name in ("flower", "hopper")]
    turn = itertools.cycle(photographs)

    def batches() -> tuple[Tensor, Tensor]:
        return pairs(next(turn), config.batch, config.view, config.reach)

    def train() -> None:
        begun = time.perf_counter()
        steps, loss = flow_model.train(
            net, batches, steps=config.steps, lr=config.lr, free=config.free,
            seconds=60 * config.minutes,
        )  # fmt: skip
        seconds = round(time.perf_counter() - begun, 1)
        said = {"seconds": seconds, "steps": steps, "loss of the last tenth": loss}
        parts("training", lambda: said)

    parts.weights("net", net, train)
    return net.eval(), parts("training", lambda: {"seconds": None})


def scored(flow: Tensor, true: Tensor) -> dict[str, float]:
    """Return the end-point error in pixels and F1 in percent."""
    return {name: round(float(each.mean()), 4) for name, each in errors(flow, true).items()}


def modules(found: Account, evaluations: float) -> dict[str, float]:
    """Return the share of multiply-adds that each module is spared, against dense evaluations."""
    cut = {}
    for module in MODULES:
        layers = [each for each in found.layers if each.name.startswith(module)]
        dense = sum(each.dense for each in layers) * evaluations * found.samples
        cut[module] = round(1 - sum(each.spent for each in layers) / dense, 4)
    return {"cut": round(1 - found.spent / found.dense(evaluations), 4), **cut}


def thresholded(config: Config, tau: float, **settings: Any) -> DeltaPicard:
    """Return the damped iteration with a threshold, which ends where no entry moves."""
    given = {"rtol": NEVER, "max_steps": config.iterations, "damping": ALPHA, **settings}
    return DeltaPicard(tau=tau, **given)


@torch.no_grad()
def on_pairs(net: FlowNet, config: Config, parts: Parts) -> dict[str, Any]:
    """Measure every way on pairs of views of the test photograph."""
    torch.manual_seed(config.seed + 1)
    views, true = pairs(
        photograph("china").to(config.device), config.pairs, config.view, config.reach
    )
    layer, k = net.layer, config.iterations
    fixed = layer.with_solver(Picard(rtol=NEVER, damping=ALPHA, max_steps=k))
    path = fixed.solve(views, record=True)
    assert path.trajectory is not None
    probe = account(delta(layer, solver=thresholded(config, config.taus[0])), views[:1])
    dense = {each.name: each.dense for each in probe.layers}
    whole = float(sum(dense.values()))
    size = float(path.value.square().mean().sqrt())
    rest = settled(path.trajectory.z[:, : min(32, config.pairs)], 1e-2 * size)
    at = {
        str(n): scored(read(path.trajectory.z[n]), true)["EPE"]
        for n in (5, 10, 20, 40, 60)
        if n <= k
    }
    rows: dict[str, Any] = {
        f"{k} iterations": {**scored(read(path.value), true), "cut": 0.0},
        "no motion": scored(torch.zeros_like(true), true),
        "Lucas-Kanade": scored(lucas_kanade(views), true),
    }

    def way(solver: DeltaPicard) -> dict[str, float]:
        tiled = replace(solver, together=Blocks(TILE))
        entries = account(delta(layer, solver=solver, products=Entrywise()), views)
        tiles = account(delta(layer, solver=tiled, products=Entrywise()), views)
        return {
            **scored(read(entries.solution.value), true),
            **modules(entries, k),
            "cut in tiles": modules(tiles, k)["cut"],
            "EPE in tiles": scored(read(tiles.solution.value), true)["EPE"],
            "steps": round(float(entries.solution.steps.double().mean()), 1),
        }

    for tau in config.taus:
        for rule, settings in (("delta", {}), ("as published", {"previous": True})):
            name, solver = f"{rule}, tau {tau:g}", thresholded(config, tau, **settings)
            rows[name] = parts(f"pairs, {name}", partial(way, solver))
    solvers: dict[str, Solver[Any, Any]] = {
        "Picard": Picard(damping=ALPHA), "Anderson": Anderson()
    }  # fmt: skip
    for name, each in solvers.items():
        for rtol in config.rtols:
            found = layer.with_solver(replace(each, rtol=rtol, max_steps=k)).solve(views)
            evals = float(found.evals.double().mean())
            cut = round(1 - evals / k, 4)
            rows[f"{name}, stopped at {rtol:g}"] = {
                **scored(read(found.value), true), "cut": cut, "steps": round(evals, 1),
            }  # fmt: skip
    return {
        "pairs": config.pairs,
        "multiply-adds an evaluation of a sample": whole,
        "share of the multiply-adds": {
            module: round(sum(v for n, v in dense.items() if n.startswith(module)) / whole, 4)
            for module in MODULES
        },
        "EPE after iterations": at,
        "relative residual after the last": float(path.residual.median()),
        "rows": rows,
        "steps": list(range(rest.length + 1)),
        "share that moves": [round(share, 4) for share in rest.moving().tolist()],
        "map": rest.steps[0].double().mean(0).tolist(),
    }


def on_sequence(net: FlowNet, config: Config, parts: Parts, *, local: bool) -> dict[str, Any]:
    """Follow moving views of the test photograph."""
    torch.manual_seed(config.seed + 2)
    whole = photograph("china").to(config.device)
    size, batch = config.view, config.sequences
    clip = sequence(whole, batch, size, config.motion, config.frames, local=local)
    plain = Picard(damping=ALPHA, max_steps=config.iterations)
    solvers: dict[str, Solver[Any, Any]] = {
        f"to {rtol:g}": replace(plain, rtol=rtol) for rtol in config.rtols
    }
    for tau in config.taus:
        solvers[f"delta in entries, tau {tau:g}"] = solver = thresholded(config, tau)
        solvers[f"delta in tiles, tau {tau:g}"] = replace(solver, together=Blocks(TILE))
    name = "local" if local else "drift"
    found = follow(net, clip, solvers, lambda way, make: parts(f"{name}, {way}", make))
    return {"frames": config.frames, "sequences": batch, **found}


def drawn(found: dict[str, Any], folder: Path) -> list[str]:
    """Draw which share of the state moves, where until when, and errors against what was cut."""
    here = found["pairs"]
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {"pairs": {}}
    for name, row in here["rows"].items():
        if name.startswith(("delta", "as published", "Picard", "Anderson")):
            saved, lost = panels["pairs"].setdefault(name.split(",")[0], ([], []))
            saved.append(100 * row["cut"])
            lost.append(row["EPE"])
    for clip in list(found)[1:]:
        panels[clip] = {}
        for name, row in found[clip]["rows"].items():
            way = name.rpartition(",")[0]
            saved, lost = panels[clip].setdefault(way, ([], []))
            saved.append(100 * (1 - row["of the cold evaluations"]))
            lost.append(row["EPE"])
    figures = {
        "flow": plotting.tradeoff_figure(
            panels, x="multiply-adds cut (%)", y="end-point error (pixels)"
        ),
        "flow_rest": plotting.convergence_figure(
            {"recurrent-equilibrium flow": (here["steps"], here["share that moves"])},
            {"iterations until at rest": torch.tensor(here["map"])},
        ),
    }
    return [plotting.save(figure, folder / f"{name}.png").name for name, figure in figures.items()]


def main(config: Config, results: Path = RESULTS, images: Path = IMAGES) -> None:
    """Train, measure, draw; write experiments/results/flow.json."""
    torch.backends.cudnn.allow_tf32 = False  # sums of changes and dense products must agree
    record, parts, console = Record("flow", config), Parts(config.work, config), Console()
    net, training = trained(config, parts)
    found = {"pairs": parts("pairs", lambda: on_pairs(net, config, parts))}
    for name, local in {"a part moves before a still camera": True, "all drifts": False}.items():
        found[name] = parts(
            "local" if local else "drift",
            lambda local=local: on_sequence(net, config, parts, local=local),  # type: ignore[misc]
        )
    for name, each in found.items():
        console.print(name, each["rows"], highlight=False)
    result = {
        "not here": "Sintel and KITTI; these are photographs warped by known smooth flows",
        "paper": PAPER,
        "training": training,
        "parameters": sum(p.numel() for p in net.parameters()),
        **{k: {n: v for n, v in each.items() if n != "map"} for k, each in found.items()},
        "figures": drawn(found, images),
    }
    console.print(f"Written to {record.write(result, results)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--work", type=Path, default=Config.work)
    parser.add_argument("--small", action="store_true", help="sizes for a core and some minutes")
    parser.add_argument("--steps", type=int, help="of training, at most")
    parser.add_argument("--minutes", type=float, help="of training, at most")
    chosen = parser.parse_args()
    given = {"steps": chosen.steps, "minutes": chosen.minutes}
    sizes = (SMALL if chosen.small else {}) | {k: v for k, v in given.items() if v is not None}
    main(Config(device=chosen.device, work=chosen.work, **sizes))
