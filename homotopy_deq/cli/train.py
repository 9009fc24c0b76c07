"""homotopy-deq train"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from ..training.processes import check_started
from .command import option
from .evaluation.collapse import COLLAPSE, draw_collapse
from .options import Begun, Machine, Train
from .report import console, residual
from .resolve import build, images_of, pass_of, resolve
from .trained import Trained

CONFIG = "config.toml"
MEASURED = ("training", "images", "parts", "processes", "loss of the start")
"""What a run finds anew about itself when it goes on."""


def command(chosen: Train) -> None:
    """Train a model in a folder."""
    given = {**(read(chosen.config) if chosen.config else {}), **chosen.settings}
    name = f"{given.get('model', 'homoode')}-{given.get('dataset', 'digits')}"
    folder = chosen.out or Path("runs") / name
    begun = chosen.begun
    check_folder(folder, resume=begun.resume, overwrite=begun.overwrite)
    track = [pick("measure", name, MEASURES) for name in chosen.track or ()]
    chosen.machine.use()
    check_started(cpu=chosen.machine.cpu)
    if begun.resume:
        resume(folder, given, chosen.machine, track)
        return
    settings = resolve(given)
    images = images_of(settings, given.get("data"), download=chosen.download)
    work = Work(build(settings, images), settings, images, folder, track=track)
    work.do(chosen.machine, begun, ConfigFile(folder / CONFIG, work.settings))


@dataclass
class Work:
    """A model to be trained in a folder, and what the folder's files say of it.

    Arguments:
        network: the model.
        settings: of the run.
        images: to train on.
        folder: of the run.
        about: what a checkpoint says of the run; of a new one, beside what all say.
        track: names of what is measured after each epoch, too.
    """

    network: ImageModel
    settings: Settings
    images: ImageData
    folder: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    track: Sequence[str] = ()

    def __post_init__(self) -> None:
        place = Root(self.images.root)
        self.settings = replace(self.settings, data=replace(self.settings.data, place=place))

    def do(self, machine: Machine, begun: Begun, *observers: Observer) -> None:
        """Train, and say what came of it."""
        settings, images, network = self.settings, self.images, self.network
        path = pass_of(settings)
        accelerator = accelerator_for(settings.training, cpu=machine.cpu)
        if accelerator.is_main_process:
            count = sum(p.numel() for p in network.parameters())
            say(
                f"{settings.model.name} with {count:,} parameters, forward by {path.solver}, on "
                f"{len(images.train_labels):,} images of {images.name} ({images.source}); "
                f"{accelerator.device}, writing to {self.folder}"
            )
        about = {
            "spec": settings.named(),
            "model": {"name": settings.model.name, "config": network.config},
            "classes": list(images.classes),
        }
        outcome = train(
            network,
            images,
            settings.training,
            self.folder,
            about={**about, **self.about},
            resume=begun.resume,
            overwrite=begun.overwrite,
            observers=[Bar(console, path.success), *observers],
            measures={name: MEASURES[name](network, images, settings) for name in self.track},
            accelerator=accelerator,
        )
        if not accelerator.is_main_process:
            return
        test = outcome.test
        far = test["residual_median"]
        say(
            f"test accuracy {test['accuracy']:.2%} on {test['samples']:,} images with the weights "
            f"of epoch {outcome.best['epoch']} (validation {outcome.best['accuracy']:.2%}), "
            f"{test['nfe']:.1f} evaluations, {test['converged']:.1%} {path.success}"
            + ("" if far is None else f", median residual {residual(far)}")
        )
        if outcome.noisy is not None and (smoothing := settings.training.smoothing):
            accuracy = f"test accuracy {outcome.noisy['accuracy']:.2%}"
            say(f"{accuracy} under noise of {smoothing.noise:g}, one draw an image")
        say(f"checkpoint {outcome.checkpoint}")
        if self.track and (drawn := draw_collapse(self.folder, self.folder / "plots")):
            say(f"wrote {drawn}")


def _neural_collapse(model: ImageModel, images: ImageData, settings: Settings) -> Measure:
    config = settings.training
    kept, _ = split_validation(images, config.validation, config.seed)
    return NeuralCollapse(model, images.train_images[kept], images.train_labels[kept])


MEASURES: Mapping[str, Callable[[ImageModel, ImageData, Settings], Measure]] = {
    COLLAPSE: _neural_collapse
}
"""What --track may name."""


def resume(
    folder: Path, given: Mapping[str, Any], machine: Machine, track: Sequence[str] = ()
) -> None:
    """Go on with the run in a folder, to which what is given must not be opposed."""
    network, settings, about = _resumed(folder, given)
    work = Work(network, settings, images_of(settings, given.get("data")), folder, about, track)
    config = folder / CONFIG
    keeps = [ConfigFile(config, work.settings)] if config.exists() else []
    work.do(machine, Begun(resume=True), *keeps)


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


def _resumed(folder: Path, given: Mapping[str, Any]) -> tuple[ImageModel, Settings, dict[str, Any]]:
    """Return the model of the run in a folder, its settings, and what its checkpoint says of it."""
    trained = Trained.of(folder)  # raises CheckpointError before anything else is read
    settings = trained.settings
    config = settings.training
    epochs = given.get("epochs", 0)
    if epochs > config.epochs:
        say(
            f"{folder} was to end after {config.epochs} epochs and goes on to {epochs}: the "
            f"learning rate starts again at {config.lr:g} and falls to {config.final_lr:g} at the "
            f"new end. The result is not that of one run of {epochs} epochs."
        )
        config = replace(config, epochs=epochs)
    config = replace(config, save_every=given.get("save_every", config.save_every))
    settings = replace(settings, training=config)
    check_same(folder, settings, given)
    about = trained.checkpoint.meta["about"]
    kept = {name: part for name, part in about.items() if name not in MEASURED}
    spec = {**about["spec"], "epochs": config.epochs}
    return trained.model, settings, {**kept, "spec": spec}


def check_same(folder: Path, settings: Settings, given: Mapping[str, Any]) -> None:
    """Raise ValueError where the run in a folder has other settings than are given."""
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


def say(text: str) -> None:
    """Print a line, as long as it is."""
    console.print(text, highlight=False, soft_wrap=True)
