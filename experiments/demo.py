"""Train a HomoODE on the built-in digits, then take its weights through other forward passes.

    python -m experiments.demo            (or: make demo)

The flow dz/dt = f(z; x) - z is trained with a penalty on the residual at its end, so it ends near
the equilibrium z* = f(z*; x), and any solver of that equation can stand in for it. One table
compares them; runs/demo receives the checkpoint, the plots and the figures. Exits with 1 if the
accuracies differ by more than half a point, or one is below 97%.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress

from experiments.results import IMAGES, Record
from homotopy_deq import plotting
from homotopy_deq.cli.names import Pass
from homotopy_deq.cli.report import evaluation_table
from homotopy_deq.cli.resolve import build, images_of, pass_of, resolve
from homotopy_deq.data import loader
from homotopy_deq.page import trajectory
from homotopy_deq.training import (
    Bar,
    Evaluation,
    Objective,
    accelerator_for,
    evaluate,
    train,
)

PASSES = (
    "rk4", "dopri5", "bosh3", "anderson", "broyden", "newton-krylov", "pseudo-transient",
    "steady-state", "continuation", "rk4+anderson",
)  # fmt: skip
DRAWN = ("rk4", "dopri5", "anderson", "newton-krylov", "steady-state", "continuation")
SPREAD, ACCURACY = 0.005, 0.97


@dataclass(frozen=True)
class Config:
    """What is trained; all else is the recipe of the digits."""

    epochs: int = 10
    folder: Path = Path("runs/demo")
    seed: int = 0


def main(config: Config, *, publish: bool = False) -> bool:
    """Train, evaluate, draw; say whether the forward passes agree."""
    torch.set_num_threads(1)  # the images are 8x8: more threads would only wait for each other
    console = Console()
    record = Record("demo", config)
    settings = resolve({"epochs": config.epochs, "seed": config.seed})
    data = images_of(settings, None)
    model = build(settings, data)
    about = {
        "spec": settings.named(),
        "model": {"name": settings.model.name, "config": model.config},
        "classes": list(data.classes),
    }
    outcome = train(
        model,
        data,
        settings.training,
        config.folder,
        about=about,
        overwrite=True,
        observers=[Bar(console, pass_of(settings).success)],
    )
    passes = {name: Pass(name).put(model) for name in PASSES}
    batches = loader(data.test_images, data.test_labels, 256, shuffle=False)
    accelerator = accelerator_for(settings.training)
    found: dict[str, Evaluation] = {}
    with Progress(console=console, transient=True) as progress:
        for name in progress.track(PASSES, description="evaluating"):
            found[name] = evaluate(Objective(passes[name]), batches, accelerator)
        images = data.test_images[:64].float() / 255
        paths = {
            name: trajectory(passes[name], images)
            for name in progress.track(DRAWN, description="drawing")
        }
    plots = config.folder / "plots"
    plotting.save(plotting.training_figure(outcome.history), plots / "training.png")
    plotting.save(plotting.residual_figure(paths, 1e-4), plots / "residuals.png")
    states = {name: path.z[:, :5] for name, path in paths.items()}
    names = [data.classes[k] for k in data.test_labels[:5].tolist()]
    plotting.save(plotting.path_figure(states, names), plots / "paths.png")

    title = f"One set of weights, {len(data.test_labels)} test images"
    success = {name: Pass(name).success for name in PASSES}
    console.print(evaluation_table(title, found, success))
    accuracies = [each.accuracy for each in found.values()]
    spread = max(accuracies) - min(accuracies)
    result = {
        "data": data.source,
        "best epoch": outcome.best["epoch"],
        "spread of accuracy": spread,
        "forward passes": {name: asdict(each) for name, each in found.items()},
    }
    record.write(result, config.folder)
    if publish:
        record.write(result)
        IMAGES.mkdir(parents=True, exist_ok=True)
        shutil.copy(plots / "residuals.png", IMAGES / "forward_passes.png")
    agree = spread <= SPREAD and min(accuracies) >= ACCURACY
    console.print(
        f"Accuracies {'agree' if agree else 'do not agree'}: {min(accuracies):.2%} to "
        f"{max(accuracies):.2%}. Checkpoint, plots and figures: {config.folder}",
        highlight=False,
    )
    return agree


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and dropout")
    parser.add_argument("--publish", action="store_true", help="write the committed results, too")
    chosen = parser.parse_args()
    sys.exit(0 if main(Config(seed=chosen.seed), publish=chosen.publish) else 1)
