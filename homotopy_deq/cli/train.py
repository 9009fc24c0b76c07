"""homotopy-deq train"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data import ImageData, split_validation
from ..models import ImageModel
from ..settings import Settings
from ..settings.data import Place as Root
from ..settings.declare import pick, values
from ..settings.tree import NAMES, read
from ..training import (
    Bar,
    NeuralCollapse,
    Observer,
    Place,
    accelerator_for,
    check_folder,
    train,
)
from ..training.checkpoint import replace_file
from ..training.measures import Measure
from .command import option
from .evaluation.collapse import COLLAPSE, draw_collapse
from .options import Train
from .report import console, residual
from .resolve import build, images_of, pass_of, resolve
from .trained import Trained

CONFIG = "config.toml"


def command(chosen: Train) -> None:
    """Train a model in a folder."""
    given = {**(read(chosen.config) if chosen.config else {}), **chosen.settings}
    name = f"{given.get('model', 'homoode')}-{given.get('dataset', 'digits')}"
    folder = chosen.out or Path("runs") / name
    begun = chosen.begun
    check_folder(folder, resume=begun.resume, overwrite=begun.overwrite)
    about: dict[str, Any] = {}
    if begun.resume:
        settings, about = _resumed(folder, given)
    else:
        settings = resolve(given)
    tracked = [pick("measure", name, MEASURES) for name in chosen.track or ()]
    chosen.machine.use()
    images = images_of(settings, given.get("data"), download=chosen.download)
    settings = replace(settings, data=replace(settings.data, place=Root(images.root)))
    network, path = build(settings, images), pass_of(settings)
    accelerator = accelerator_for(settings.training, cpu=chosen.machine.cpu)
    if accelerator.is_main_process:
        count = sum(p.numel() for p in network.parameters())
        _say(
            f"{settings.model.name} with {count:,} parameters, forward by {path.solver}, on "
            f"{len(images.train_labels):,} images of {images.name} ({images.source}); "
            f"{accelerator.device}, writing to {folder}"
        )
    about = about or {
        "spec": settings.named(),
        "model": {"name": settings.model.name, "config": network.config},
        "classes": list(images.classes),
    }
    outcome = train(
        network,
        images,
        settings.training,
        folder,
        about=about,
        resume=begun.resume,
        overwrite=begun.overwrite,
        measures={name: MEASURES[name](network, images, settings) for name in tracked},
        observers=[Bar(console, path.success), ConfigFile(folder / CONFIG, settings)],
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        test = outcome.test
        far = test["residual_median"]
        _say(
            f"test accuracy {test['accuracy']:.2%} on {test['samples']:,} images with the weights "
            f"of epoch {outcome.best['epoch']} (validation {outcome.best['accuracy']:.2%}), "
            f"{test['nfe']:.1f} evaluations, {test['converged']:.1%} {path.success}"
            + ("" if far is None else f", median residual {residual(far)}")
        )
        if outcome.noisy is not None and (smoothing := settings.training.smoothing):
            accuracy = f"test accuracy {outcome.noisy['accuracy']:.2%}"
            _say(f"{accuracy} under noise of {smoothing.noise:g}, one draw an image")
        _say(f"checkpoint {outcome.checkpoint}")
        if tracked and (drawn := draw_collapse(folder, folder / "plots")):
            _say(f"wrote {drawn}")


def _neural_collapse(model: ImageModel, images: ImageData, settings: Settings) -> Measure:
    config = settings.training
    kept, _ = split_validation(images, config.validation, config.seed)
    return NeuralCollapse(model, images.train_images[kept], images.train_labels[kept])


MEASURES: Mapping[str, Callable[[ImageModel, ImageData, Settings], Measure]] = {
    COLLAPSE: _neural_collapse
}
"""What --track may name."""


@dataclass(frozen=True)
class ConfigFile(Observer):
    """Keep the settings of a run beside its checkpoint, for --config.

    Arguments:
        path: of the file.
        settings: of the run.
    """

    path: Path
    settings: Settings

    def begin(self, place: Place) -> None:
        """Write the file, when the folder is the run's."""
        replace_file(self.path, self.settings.toml().encode())


def _resumed(folder: Path, given: Mapping[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Return the choices of the run in a folder, to which those given must not be opposed, and
    what its checkpoint says of itself."""
    trained = Trained.of(folder)  # raises CheckpointError before anything else is read
    settings = trained.settings
    config = settings.training
    epochs = given.get("epochs", 0)
    if epochs > config.epochs:
        _say(
            f"{folder} was to end after {config.epochs} epochs and goes on to {epochs}: the "
            f"learning rate starts again at {config.lr:g} and falls to {config.final_lr:g} at the "
            f"new end. The result is not that of one run of {epochs} epochs."
        )
        config = replace(config, epochs=epochs)
    config = replace(config, save_every=given.get("save_every", config.save_every))
    settings = replace(settings, training=config)
    kept = values(settings)
    opposed = [
        f"{option(name)}: the run has {kept[name]}, got {value}"
        for name, value in given.items()
        if NAMES[name].about["decides"] and value != kept[name]
    ]
    if opposed:
        raise ValueError(
            f"{folder} was started with other settings:\n  "
            + "\n  ".join(opposed)
            + "\nLeave them out to go on with the run, or choose another folder (--out)."
        )
    about = trained.checkpoint.meta["about"]
    kept = {name: about[name] for name in ("spec", "model", "classes")}
    return settings, {**kept, "spec": {**about["spec"], "epochs": config.epochs}}


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
