"""What is done with each run of a comparison: it is trained, and then measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...comparison import measure_step
from ...data import loader
from ...models import Stack
from ...sealed import seal, unseal
from ...training import CHECKPOINT, METRICS, Objective, accelerator_for, evaluate, read_metrics
from ...training import Run as TrainerRun
from ...training.checkpoint import replace_file
from ..options import Begun, Machine, Train
from ..resolve import images_of, pass_of
from ..train import command as train_command
from ..trained import Trained
from .plan import Run

MEASURED = "measured.json"
SWAPS = ("anderson", "dopri5", "rk4")
BATCH = 256  # of the images of a test, as `evaluate` has it


def train(run: Run, root: Path | None, machine: Machine) -> None:
    """Train a run, or go on with it."""
    place = {} if root is None else {"data": root}
    named = {name: value for name, value in run.settings.named().items() if value is not None}
    named["save_every"] = run.settings.training.save_every
    begun = Begun(resume=run.begun)
    train_command(Train(settings={**named, **place}, out=run.folder, begun=begun, machine=machine))


def measure(run: Run, root: Path | None, swaps: Sequence[str] | None, machine: Machine) -> None:
    """Write down what a trained run takes a step, and its accuracy under other solvers."""
    machine.use()
    trained = Trained.of(run.folder)
    settings = trained.settings
    images = images_of(settings, root)
    accelerator = accelerator_for(settings.training, cpu=machine.cpu)
    # First, while the process is young (see `peak_memory`), and of a model that learns by it.
    step = measure_step(TrainerRun(trained.model, images, settings.training, accelerator, {}))
    model = Trained.of(run.folder).model
    batches = accelerator.prepare(
        loader(images.test_images, images.test_labels, BATCH, shuffle=False)
    )
    swapped, refused = dict[str, Any](), dict[str, str]()
    explicit = isinstance(model.layer, Stack) and not model.layer.implicit
    for name in SWAPS if swaps is None else swaps:
        if name == settings.forward.solver or explicit:  # nothing would be swapped
            continue
        try:
            objective = accelerator.prepare(Objective(pass_of(settings, name).put(model)))
            swapped[name] = evaluate(objective, batches, accelerator).figures()
        except ValueError as error:
            refused[name] = str(error)
    found = {
        "asked": None if swaps is None else list(swaps),
        "swapped": swapped,
        "refused": refused,
        "step": asdict(step),
    }
    replace_file(run.folder / MEASURED, seal(found))


def measured(run: Run, swaps: Sequence[str] | None) -> Mapping[str, Any] | None:
    """Return what `measure` wrote of these swaps, or None: what was altered is measured anew."""
    file = run.folder / MEASURED
    if not file.is_file():
        return None
    try:
        found = unseal(file.read_bytes().rstrip(b"\n"))
    except ValueError:
        return None
    return found if found.get("asked", ()) == (None if swaps is None else list(swaps)) else None


def figures(run: Run, swaps: Sequence[str] | None) -> dict[str, Any]:
    """Return all that is known of a run that is done and measured."""
    trained = Trained.of(run.folder)
    found = measured(run, swaps)
    assert found is not None
    return {
        "seed": run.seed,
        "parameters": run.entry.parameters,
        "test": trained.checkpoint.meta["test"],
        "best epoch": trained.checkpoint.meta["best"]["epoch"],
        "seconds": sum(epoch["seconds"] for epoch in read_metrics(run.folder / METRICS)),
        **found,
    }


def epochs(run: Run) -> int:
    """Return how many epochs of a run are done."""
    return len(read_metrics(run.folder / METRICS)) if (run.folder / CHECKPOINT).exists() else 0
