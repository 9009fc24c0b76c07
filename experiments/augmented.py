"""Test whether the augmented part of an augmented Neural ODE plays the equilibrium.

    python -m experiments.augmented                  # digits, three seeds, some minutes

HomoODE's authors read an augmented Neural ODE so: its state is (u, a), u(0) the condition x and
a(0) = 0, and a plays what the state of a HomoODE does, which seeks an equilibrium for the condition
from a start that does not depend on it. Four things would then hold, each measured on test images:

    answer     The head reads a: to put its mean in the place of a(1) costs at least twice the
               accuracy that it costs for u(1).
    condition  u acts as a condition: with u held at x, a(1) moves by at most a tenth, and the
               accuracy by at most a point.
    rest       a comes to rest: its speed at the end is at most a tenth of the mean speed, and
               another such time changes the accuracy by at most a point.
    likeness   a(1) predicts the equilibrium z* of a DEQ, trained on the same images, better than
               u(1) does: by ridge regression, R^2 on the test images.

u and a have equally many channels. The DEQ's own flow dz/dt = f(z; x) - z, to t = 5, is beside
them: what "rest" looks like where there is an equilibrium.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from experiments.parts import Parts
from experiments.results import RESULTS, Record
from homotopy_deq import DEQ, ODE, Anderson, AugmentedNeuralODE, InitialValue, RungeKutta, solve
from homotopy_deq.data import ImageData, load
from homotopy_deq.models import ImageModel
from homotopy_deq.training import TrainConfig, accelerator_for, train

FINE = RungeKutta(rtol=1e-4, atol=1e-4, max_steps=1000)  # ten times finer than in training
PIECES = 10  # of the way, in each of which the speed is taken
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the mean eigenvalue, chosen on held-out images
HELD_OUT = 5  # every fifth train image


@dataclass(frozen=True)
class Config:
    """The models' sizes and their training."""

    dataset: str = "digits"
    data: Path | None = None
    epochs: int = 5
    limit: int | None = None
    hidden: int = 32
    seeds: int = 3
    minutes: float | None = None
    device: str = "cpu"
    work: Path = field(default=Path("runs/augmented"))
    seed: int = 0


def main(config: Config, out: Path = RESULTS) -> None:
    """Measure each seed; write augmented.json when all are there."""
    torch.set_num_threads(1)
    ends = None if config.minutes is None else time.monotonic() + 60 * config.minutes
    console, record = Console(), Record("augmented", config)
    parts = Parts(config.work, replace(config, minutes=None, device=""))
    data = load(config.dataset, config.data, limit=config.limit)
    runs = []
    for seed in range(config.seed, config.seed + config.seeds):
        if ends is not None and time.monotonic() > ends:
            console.print(f"{len(runs)} seeds of {config.seeds} are done: call it again.")
            return
        with console.status(f"seed {seed}"):
            runs.append(parts(f"seed-{seed}", lambda seed=seed: measure(config, data, seed)))
    told = verdicts(runs)
    for name, said in told.items():
        console.print(f"{name}: {said}", highlight=False)
    result = {"runs": runs, "mean": means(runs), "holds": told}
    console.print(f"Written to {record.write(result, out)}")


def measure(config: Config, data: ImageData, seed: int) -> dict[str, float]:
    """Train both models and take all figures of one seed."""
    augmented, deq = (
        trained(config, data, kind, settings, seed)
        for kind, settings in (
            (AugmentedNeuralODE, {"augment": config.hidden, "solver": RungeKutta()}),
            (DEQ, {}),
        )
    )
    seen, known = (
        images.to(config.device).float() / 255 for images in (data.test_images, data.train_images)
    )
    labels = data.test_labels.to(config.device)
    with torch.no_grad():
        row = {"accuracy": accuracy(augmented(seen), labels), "DEQ": accuracy(deq(seen), labels)}
        row |= roles(augmented, seen, known, labels)
        rests = deq.with_solver(ODE("rk4", step_size=0.5))
        row |= {f"DEQ {k}": v for k, v in speeds(rests, seen, labels, {"z": slice(None)}).items()}
        row |= likeness(augmented, deq, seen, known)
    return row


def trained(
    config: Config, data: ImageData, kind: type[Any], settings: dict[str, Any], seed: int
) -> ImageModel:
    """Return a trained model, in eval mode."""
    torch.manual_seed(seed)
    sizes = {"hidden": config.hidden, "head": 4 * config.hidden, "pool": 4, "groups": 8}
    about = {"mean": data.mean, "std": [max(s, 1e-3) for s in data.std], "on_failure": "ignore"}
    model: ImageModel = kind(data.shape, data.num_classes, **sizes, **about, **settings)
    training = TrainConfig(epochs=config.epochs, lr=3e-3, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        processes = accelerator_for(training, cpu=config.device == "cpu")
        train(model, data, training, Path(folder), accelerator=processes)
    return model.to(config.device).eval()


def roles(model: ImageModel, seen: Tensor, known: Tensor, labels: Tensor) -> dict[str, float]:
    """Return what each part of the state does for the answer, and whether it comes to rest."""
    x, flow = flow_of(model, seen)
    width = x.shape[1]
    parts = {"u": slice(width), "a": slice(width, None)}
    end = walk(flow, model.layer.initial(x))
    mean = walk(flow_of(model, known)[1], model.layer.initial(model.condition(known))).mean(0)
    found = {}
    for name, part in parts.items():
        without = end.clone()
        without[:, part] = mean[part]
        found[f"accuracy without {name}"] = accuracy(model.head(without), labels)

    def of_a(t: Tensor, a: Tensor, u: Tensor) -> Tensor:
        """Evaluate da/dt with u held."""
        rate: Tensor = flow.field(t, torch.cat([u, a], 1), u)
        return rate[:, width:]

    held = walk(InitialValue(of_a, flow.t0, flow.t1, (x,)), torch.zeros_like(end[:, width:]))
    found["a moves with u held"] = relative(held, end[:, width:])
    with_held = torch.cat([end[:, :width], held], 1)
    found["accuracy with u held"] = accuracy(model.head(with_held), labels)
    found["u moves"] = relative(end[:, :width], x)
    return found | speeds(model, seen, labels, parts)


def speeds(
    model: ImageModel, seen: Tensor, labels: Tensor, parts: dict[str, slice]
) -> dict[str, float]:
    """Return each part's speed at the end over its mean speed, and what twice the time does."""
    x, flow = flow_of(model, seen)
    z, times = model.start(x), torch.linspace(flow.t0, flow.t1, PIECES + 1).tolist()
    rates = [flow.field(torch.tensor(flow.t0), z, x)]
    for t0, t1 in zip(times, times[1:], strict=False):
        z = walk(replace(flow, t0=t0, t1=t1), z)
        rates.append(flow.field(torch.tensor(t1), z, x))
    later = walk(replace(flow, t0=flow.t1, t1=2 * flow.t1), z)
    found = {"accuracy at twice the time": accuracy(model.head(later), labels)}
    for name, part in parts.items():
        sizes = torch.stack([rate[:, part].flatten(1).norm(dim=1) for rate in rates])
        found[f"speed of {name} at the end"] = float((sizes[-1] / sizes.mean(0)).median())
    return found


def likeness(
    augmented: ImageModel, deq: ImageModel, seen: Tensor, known: Tensor
) -> dict[str, float]:
    """Return how well each part of the state predicts the DEQ's equilibrium, R^2."""
    features: dict[str, list[Tensor]] = {"x": [], "u(1)": [], "a(1)": []}
    goals = []
    root = deq.with_solver(Anderson(rtol=1e-5, max_steps=200))
    for images in (known, seen):
        x, flow = flow_of(augmented, images)
        end = walk(flow, augmented.layer.initial(x))
        goals.append(root.solve(images).solution.value)
        every = zip(features, (x, end[:, : x.shape[1]], end[:, x.shape[1] :]), strict=True)
        for name, part in every:
            features[name].append(part)
    return {f"R2 of {name}": predicted(*each, *goals) for name, each in features.items()}


def predicted(x: Tensor, x_test: Tensor, y: Tensor, y_test: Tensor) -> float:
    """Return R^2 on test samples of a ridge regression, its strength chosen on held-out ones."""
    x, x_test, y, y_test = (each.flatten(1).double().cpu() for each in (x, x_test, y, y_test))
    held = torch.arange(len(x)) % HELD_OUT == 0
    chosen = max(RIDGES, key=lambda ridge: _fitted(x[~held], y[~held], ridge)(x[held], y[held]))
    return _fitted(x, y, chosen)(x_test, y_test)


def _fitted(x: Tensor, y: Tensor, ridge: float) -> Callable[[Tensor, Tensor], float]:
    centre, mean = x.mean(0), y.mean(0)
    gram = (x - centre).T @ (x - centre)
    gram.diagonal().add_(ridge * gram.diagonal().mean())
    weight = torch.linalg.solve(gram, (x - centre).T @ (y - mean))

    def judged(x: Tensor, y: Tensor) -> float:
        left = y - mean - (x - centre) @ weight
        return 1 - float(left.square().sum() / (y - mean).square().sum())

    return judged


def flow_of(model: ImageModel, images: Tensor) -> tuple[Tensor, InitialValue]:
    """Return the condition of images, and the flow from it."""
    x = model.condition(images)
    problem = model.layer.problem(model.layer.condition(x))
    assert isinstance(problem, InitialValue)
    return x, problem


def walk(flow: InitialValue, z: Tensor) -> Tensor:
    """Return z(t1)."""
    return solve(flow, FINE, z).check().value


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def relative(a: Tensor, b: Tensor) -> float:
    """Return the median over samples of ||a - b|| / ||b||."""
    gaps = (a - b).flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)
    return float(gaps.median())


def means(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each figure over the seeds."""
    return {key: statistics.fmean(run[key] for run in runs) for key in runs[0]}


def verdicts(runs: list[dict[str, float]]) -> dict[str, bool]:
    """Return whether each part of the claim holds, in every seed."""

    def holds(run: dict[str, float]) -> dict[str, bool]:
        whole = run["accuracy"]
        without_a, without_u = (whole - run[f"accuracy without {part}"] for part in "au")
        held = abs(whole - run["accuracy with u held"]) <= 0.01
        later = abs(whole - run["accuracy at twice the time"]) <= 0.01
        return {
            "answer": without_a >= 2 * max(without_u, 0.0),
            "condition": run["a moves with u held"] <= 0.1 and held,
            "rest": run["speed of a at the end"] <= 0.1 and later,
            "likeness": run["R2 of a(1)"] > run["R2 of u(1)"],
        }

    each = [holds(run) for run in runs]
    return {name: all(one[name] for one in each) for name in each[0]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default=Config.dataset)
    parser.add_argument("--data", type=Path, help="folder of the images; digits need none")
    parser.add_argument("--epochs", type=int, default=Config.epochs)
    parser.add_argument("--limit", type=int, help="train images; all by default")
    parser.add_argument("--seeds", type=int, default=Config.seeds)
    parser.add_argument("--minutes", type=float, help="begin no further seed after so many")
    parser.add_argument("--device", default=Config.device)
    parser.add_argument("--work", type=Path, default=Path("runs/augmented"), help="what is done")
    main(Config(**vars(parser.parse_args())))
