"""Measure how unevenly the coordinates of iterations converge, and in how many dimensions.

    python -m experiments.heterogeneous [--device cuda]

Three iterations: a DEQ-Siren that represents a photograph, a recurrent network whose states are
equilibria and that goes on with a sine, and Jacobi's method for a Poisson problem. For each: the
share of entries that still move against the iteration, a map of when they come to rest, and the
effective dimension of the way z_k - z* by principal components; for the sine, the states of a
sequence after 1, 5, 10 and 15 iterations at each time.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from experiments.parts import Parts
from experiments.representation import Representation, Siren, decibel, fit
from experiments.results import IMAGES, RESULTS, Record
from experiments.signals import image
from experiments.sine_rnn import SineRNN, sines, train
from homotopy_deq import plotting
from homotopy_deq.acceleration.convergence import dimension, displacement, settled

SHARES = (0.9, 0.99)  # of the variance
POINTS = 100  # of a curve, about


@dataclass(frozen=True)
class Config:
    """Sizes; `tolerance` is absolute, in parts of the root mean square of the answer."""

    size: int = 64
    hidden: int = 256
    steps: int = 400
    rnn_hidden: int = 64
    rnn_steps: int = 300
    grid: int = 32
    iterations: int = 40
    tolerance: float = 1e-3
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    work: Path = Path("runs/heterogeneous")
    seed: int = 0


SMALL: dict[str, Any] = {"size": 32, "hidden": 128, "steps": 150, "rnn_hidden": 32, "rnn_steps": 60}
"""Sizes for a minute of one core."""


def described(path: Tensor, config: Config) -> tuple[dict[str, Any], Tensor]:
    """Return when the entries of a path (T + 1, B, ...) come to rest, its dimensions, and a map.

    The map is the step at which each entry comes to rest, (B, ...).
    """
    size = float(path[-1].double().square().mean().sqrt())
    found = settled(path, config.tolerance * size)
    moving, steps = found.moving(), found.steps.flatten().double()
    some = torch.linspace(0, path.shape[1] - 1, min(path.shape[1], 256)).long()
    away = displacement(path[:, some])
    every = max(1, found.length // POINTS)
    row = {
        "entries": steps.numel(),
        "iterations": found.length,
        "at rest after, quantiles 10/50/90/100%": [
            int(torch.quantile(steps, q)) for q in (0.1, 0.5, 0.9, 1.0)
        ],
        "moving, mean over the iterations until the last rests": round(
            float(moving[: int(steps.max())].mean()), 4
        ),
        "dimension of z_k - z*": {
            **{f"components for {100 * s:g}%": dimension(away, s).components for s in SHARES},
            "participation ratio": round(dimension(away).participation, 2),
            "components for 99% of one sample's path, median": statistics.median(
                dimension(away[:, b]).components for b in range(min(away.shape[1], 32))
            ),
            "state": path[0, 0].numel(),
        },
        "steps": list(range(0, found.length + 1, every)),
        "share that moves": [round(share, 5) for share in moving[::every].tolist()],
    }
    return row, found.steps.double()


def iterated(f: Any, z: Tensor, iterations: int) -> Tensor:
    """Return z_0 ... z_T of z <- f(z)."""
    states = [z]
    with torch.no_grad():
        for _ in range(iterations):
            states.append(f(states[-1]))
    return torch.stack(states)


def siren(config: Config) -> dict[str, Any]:
    """A representation of a photograph: rows are pixels."""
    torch.manual_seed(config.seed)
    x, y = (t.to(config.device) for t in image("china", config.size))
    model = Representation(Siren(2, config.hidden, 20.0), 3).to(config.device)
    fit(model, x, y, steps=config.steps, lr=1e-3)
    layer = model.layer
    with torch.no_grad():
        f = layer.equation(layer.condition(x))
        path = iterated(f, layer.initial(x), config.iterations)
    row, steps = described(path.cpu(), config)
    row["map"] = steps.mean(1).view(config.size, config.size).tolist()
    return {"PSNR, dB": round(decibel(model, path[-1], y), 2), **row}


def sine(config: Config) -> dict[str, Any]:
    """The recurrent network: the way to the equilibrium at each time, and the states over time."""
    torch.manual_seed(config.seed)
    net = SineRNN(config.rnn_hidden).to(config.device)
    loss = train(net, steps=config.rnn_steps, device=config.device)
    wave = sines(8, 100, config.device)
    exact = net.states(wave[:-1], config.iterations)
    cell = net.layer.cell
    with torch.no_grad():  # all times at once: the state before is the equilibrium there
        before = torch.cat([torch.zeros_like(exact[:1]), exact[:-1]]).flatten(0, 1)
        injected = net.injected(before, wave[:-1].flatten(0, 1))
        path = iterated(lambda h: cell(h, injected), torch.zeros_like(injected), config.iterations)
    states = {k: net.states(wave[:-1], k).cpu() for k in (1, 5, 10, 15)}
    plane = plotting.project([s[25:, :1] for s in [*states.values(), exact.cpu()]])
    return {
        "mean squared error": loss,
        **described(path.cpu(), config)[0],
        "states over time": {
            str(k): {
                "components for 99%": dimension(s[25:]).components,
                "participation ratio": round(dimension(s[25:]).participation, 2),
                "away from the equilibria, relative": round(
                    float((s - exact.cpu()).norm() / exact.norm()), 5
                ),
            }
            for k, s in states.items()
        },
        "plane": {
            name: seen.tolist()
            for name, seen in zip(
                [*(f"{k} iterations" for k in states), "equilibria"], plane, strict=True
            )
        },
    }


def jacobi(config: Config) -> dict[str, Any]:
    """Jacobi's method for -Laplace u = g on a square, u = 0 on its border, g two points' charge."""
    n = config.grid
    g = torch.zeros(1, 1, n, n, dtype=torch.float64)
    g[0, 0, n // 4, n // 3], g[0, 0, 2 * n // 3, 3 * n // 4] = 1.0, -0.5
    cross = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float64)[None, None] / 4

    def f(u: Tensor) -> Tensor:
        return F.conv2d(u, cross, padding=1) + g / 4

    # The slowest mode falls by cos(pi / (n + 1)) a step: far below the tolerance at the end.
    steps = int(3 * (n + 1) ** 2)
    row, at_rest = described(iterated(f, torch.zeros_like(g), steps), config)
    return {**row, "map": at_rest[0, 0].tolist()}


def drawn(rows: dict[str, Any], folder: Path) -> list[str]:
    """Draw the curves and maps, and the states of the sine in their plane."""
    curves = {name: (row["steps"], row["share that moves"]) for name, row in rows.items()}
    maps = {
        f"{name}: iterations until at rest": torch.tensor(rows[name]["map"])
        for name in ("DEQ-Siren", "Jacobi")
    }
    plane = {name: torch.tensor(seen) for name, seen in rows["sine RNN"]["plane"].items()}
    figures = {
        "heterogeneous": plotting.convergence_figure(curves, maps),
        "sine_states": plotting.path_figure(plane, columns=5),
    }
    return [plotting.save(figure, folder / f"{name}.png").name for name, figure in figures.items()]


def main(config: Config, results: Path = RESULTS, images: Path = IMAGES) -> None:
    """Measure, draw; write experiments/results/heterogeneous.json."""
    record, parts, console = Record("heterogeneous", config), Parts(config.work, config), Console()
    rows = {
        "DEQ-Siren": parts("siren", lambda: siren(config)),
        "sine RNN": parts("sine", lambda: sine(config)),
        "Jacobi": parts("jacobi", lambda: jacobi(config)),
    }
    figures = drawn(rows, images)
    said = {
        name: {key: value for key, value in row.items() if key not in ("map", "plane")}
        for name, row in rows.items()
    }
    for name, row in said.items():
        shown = {k: v for k, v in row.items() if k not in ("steps", "share that moves")}
        console.print(name, shown, highlight=False)
    console.print(f"Written to {record.write({'iterations': said, 'figures': figures}, results)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--work", type=Path, default=Config.work)
    parser.add_argument("--small", action="store_true", help="sizes for a core and a minute")
    chosen = parser.parse_args()
    sizes = SMALL if chosen.small else {}
    main(Config(device=chosen.device, work=chosen.work, **sizes))
