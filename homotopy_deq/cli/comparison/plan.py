"""Which runs a comparison consists of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from ...create import model_class, takes
from ...data import ImageData
from ...models import BoundedModel
from ...settings import MODELS, ModelSettings, Settings
from ...settings.declare import leaves
from ...settings.tree import NAMES
from ...training import CHECKPOINT, load_checkpoint
from ..command import option
from ..resolve import build, images_of, resolve
from ..train import check_same
from ..trained import settings_of

OWN = {leaf.name for leaf in leaves(ModelSettings)} - {"model"}
"""Settings that some models have."""


@dataclass(frozen=True)
class Entry:
    """A model of the comparison.

    Arguments:
        name: as it was asked for, "homoode --no-rest-point".
        settings: of its run with the first seed.
        parameters: how many it has.
    """

    name: str
    settings: Settings
    parameters: int

    def run(self, folder: Path, seed: int) -> Run:
        """Return the run of a seed, in a folder of the comparison's."""
        settings = replace(self.settings, training=replace(self.settings.training, seed=seed))
        return Run(self, seed, settings, folder / f"{slug_of(self.name)}-{seed}")


@dataclass(frozen=True)
class Run:
    """One model with one seed.

    Arguments:
        entry: the model.
        seed: of the run.
        settings: of the run.
        folder: as `train` writes it.
    """

    entry: Entry
    seed: int
    settings: Settings
    folder: Path

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.entry.name}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def begun(self) -> bool:
        """Whether there is something to go on with."""
        return (self.folder / CHECKPOINT).exists()

    @property
    def done(self) -> bool:
        """Whether it is trained and tested."""
        return self.begun and load_checkpoint(self.folder / CHECKPOINT).meta["test"] is not None

    def check(self) -> None:
        """Raise ValueError where the folder's run was started with other settings."""
        if self.begun:
            kept = settings_of(load_checkpoint(self.folder / CHECKPOINT))
            check_same(self.folder, kept, self.settings.named())


def plan(
    models: str | None, shared: Mapping[str, Any], *, download: bool = False
) -> tuple[list[Entry], ImageData, list[str]]:
    """Return the models of a comparison, its images, and what there is to say about them.

    Arguments:
        models: as `Compare.models`.
        shared: settings that hold for all models that have them.
        download: fetch the data set if it is missing.

    Raises:
        ValueError: a name or a setting is not valid, or there is no model left.
    """
    asked = default_models() if models is None else words_of(models)
    notes, drafts = [], dict[str, Settings]()
    for name in asked:
        own = parsed(name)
        less = sorted(k for k in shared if k in OWN and k not in takes(own["model"]))
        if less:
            notes.append(f"{name} has no {', '.join(map(option, less))}.")
        given = {**{k: v for k, v in shared.items() if k not in less}, **own}
        try:
            drafts[name] = resolve(given)
        except ValueError as error:
            if models is not None:
                raise ValueError(f"{name}: {error}") from error
            notes.append(f"{name} is left out: {error}")
    if not drafts:
        raise ValueError("no model is left to compare: " + " ".join(notes))
    first = next(iter(drafts.values()))
    images = images_of(first, shared.get("data"), download=download)
    entries = [
        Entry(name, settings, parameters(settings, images)) for name, settings in drafts.items()
    ]
    return entries, images, notes


def default_models() -> list[str]:
    """Return all models that are trained alike, with both forms of one that has two."""
    names = []
    for name in MODELS:
        if issubclass(model_class(name), BoundedModel):
            continue
        names.append(name)
        if "rest_point" in takes(name):
            names.append(f"{name} --no-rest-point")
    return names


def words_of(models: str) -> list[str]:
    """Return the models between the commas; each once."""
    found = [" ".join(part.split()) for part in models.split(",")]
    slugs = [slug_of(name) for name in found]
    twice = [name for name in found if slugs.count(slug_of(name)) > 1]
    if twice or "" in found:
        told = f"{twice[0]!r} and {twice[1]!r}" if twice else "an empty name"
        raise ValueError(f"--models names each model once, with commas between; got {told}.")
    return found


def slug_of(name: str) -> str:
    """Return the name of a model's folders, but for the seed."""
    return re.sub(r"[^\w.]+", "-", name).strip("-")


def parsed(words: str) -> dict[str, Any]:
    """Return the settings of "NAME --option value ..." by name, as `train` reads them."""
    from .. import app

    name, *rest = words.split()
    train: Any = typer.main.get_command(app).commands["train"]  # type: ignore[attr-defined]
    try:
        context = train.make_context("train", ["--model", name, *rest])
    except Exception as error:
        message: Any = getattr(error, "format_message", None)
        if message is None:  # not one of click's own
            raise
        raise ValueError(f"--models {words!r}: {message()}") from error
    asked = [k for k in context.params if context.get_parameter_source(k).name == "COMMANDLINE"]
    for name in asked:
        if name not in NAMES or NAMES[name].place[0] == "data" or name == "seed":
            raise ValueError(f"--models {words!r}: {option(name)} is not of one model.")
    return {name: context.params[name] for name in asked}


def parameters(settings: Settings, images: ImageData) -> int:
    """Count the parameters of a run's model."""
    return sum(p.numel() for p in build(settings, images).parameters())
