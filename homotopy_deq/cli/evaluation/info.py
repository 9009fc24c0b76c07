"""homotopy-deq info"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import torch
from rich.table import Table

from ... import __version__
from ...data import DATASETS
from ...settings import MODELS, RECIPES
from ...settings.declare import values
from ...settings.tree import NAMES
from ...training import Checkpoint, load_checkpoint
from ...training.header import check_header
from .. import gradients, names, options
from ..command import OF_RECIPES
from ..report import console
from ..resolve import resolve
from ..trained import Trained, find_checkpoint

PACKAGES = ("torch", "torchdiffeq", "accelerate", "safetensors", "numpy")
OTHER = "imagefolder"  # a data set without a recipe of its own


def command(chosen: options.Info) -> None:
    """Show what there is, or what a checkpoint holds."""
    if chosen.run is not None:
        _checkpoint(load_checkpoint(find_checkpoint(chosen.run)))
        return
    facts = _table("installed")
    facts.add_row("homotopy-deq", __version__)
    facts.add_row("python", platform.python_version())
    for package in PACKAGES:
        facts.add_row(package, version(package))
    facts.add_row("CPU", f"{os.cpu_count()} logical cores, {torch.get_num_threads()} threads used")
    for k in range(torch.cuda.device_count()):
        facts.add_row(f"GPU {k}", torch.cuda.get_device_name(k))
    console.print(facts)
    valid = _table("names")
    valid.add_row("models", ", ".join(MODELS))
    valid.add_row("data sets", ", ".join(DATASETS))
    valid.add_row("solvers of equilibria", ", ".join(names.SOLVERS))
    valid.add_row("methods for flows", ", ".join(names.METHODS))
    valid.add_row("gradients", ", ".join(gradients.GRADIENTS))
    valid.add_row("policies of certify", ", ".join(names.POLICIES))
    valid.add_row("warm starts of certify", ", ".join(names.STARTS))
    console.print(valid)
    columns: dict[str, list[str]] = {}  # the data sets of each recipe
    for name in (*RECIPES, OTHER):
        columns.setdefault(str(RECIPES.get(name)), []).append(name)
    heads = ("\n".join(names).replace(OTHER, "any other") for names in columns.values())
    recipes = Table("", *heads, title="recipes", padding=0)  # 80 columns hold six of them
    found = [values(resolve({"dataset": names[0]})) for names in columns.values()]
    for name in filter(OF_RECIPES.__contains__, NAMES):
        recipes.add_row(name, *(f"{each[name]:g}" for each in found))
    console.print(recipes)


def _checkpoint(checkpoint: Checkpoint) -> None:
    meta = checkpoint.meta
    check_header(checkpoint)
    if "spec" in meta["about"]:  # as train wrote it
        Trained.from_checkpoint(checkpoint)  # or what is shown might be of no model
    place, best, test = meta["place"], meta["best"], meta["test"]
    state = _table("run")
    images = meta["about"]["images"]
    state.add_row("data", f"{images['name']}: {images['train']:,} train, {images['test']:,} test")
    state.add_row("source", images["source"])
    if (made := meta["about"].get("made_from")) is not None:
        state.add_row("made from", f"{made['model']} of {made['run']}")
    for key, what in (("root", "read from"), ("version", "written by homotopy-deq")):
        if meta.get(key) is not None:
            state.add_row(what, meta[key])
    state.add_row(
        "progress",
        f"epoch {place['epoch']} of {place['epochs']} done"
        + (f", and {place['batch']} of {place['batches']} batches" if place["batch"] else ""),
    )
    if best:
        state.add_row("best epoch", f"{best['epoch']}, validation {best['accuracy']:.2%}")
    state.add_row("test accuracy", f"{test['accuracy']:.2%}" if test else "not measured yet")
    for group in ("model", "best", "task", "start"):
        tensors = checkpoint.under(group).values()
        size = sum(t.numel() * t.element_size() for t in tensors)
        state.add_row(f"tensors: {group}", f"{len(tensors)}, {size / 2**20:.2f} MiB")
    console.print(state)
    settings = _table("settings")
    for name, value in meta["about"].get("spec", meta["about"]["training"]).items():
        settings.add_row(name, "default" if value is None else str(value))
    console.print(settings)


def _table(title: str) -> Table:
    return Table("", "", title=title, show_header=False)
