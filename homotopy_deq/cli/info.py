"""homotopy-deq info"""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Optional

import torch
import typer
from rich.table import Table

from .. import __version__
from ..data import DATASETS
from ..models import RECIPES, Recipe
from ..training import Checkpoint, load_checkpoint
from ..training.header import check_header
from . import names
from .report import console, failing
from .spec import find_checkpoint, rebuild

PACKAGES = ("torch", "torchdiffeq", "accelerate", "safetensors", "numpy")


@failing
def command(
    run: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(metavar="[RUN]", help="A run's folder or checkpoint file to look into."),
    ] = None,
) -> None:
    """Show versions, devices, and the valid names; or what a checkpoint holds."""
    if run is not None:
        _checkpoint(load_checkpoint(find_checkpoint(run)))
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
    valid.add_row("models", ", ".join(names.MODELS))
    valid.add_row("data sets", ", ".join(DATASETS))
    valid.add_row("solvers of equilibria", ", ".join(names.SOLVERS))
    valid.add_row("methods for flows", ", ".join(names.METHODS))
    valid.add_row("gradients", ", ".join(names.GRADIENTS))
    valid.add_row("policies of certify", ", ".join(names.POLICIES))
    valid.add_row("warm starts of certify", ", ".join(names.STARTS))
    console.print(valid)
    default = Recipe()
    settings = [*default.model_arguments(), *default.training_arguments()]
    columns: dict[Recipe, list[str]] = {}  # the data sets of each recipe
    for name, recipe in {**RECIPES, "any other": default}.items():
        columns.setdefault(recipe, []).append(name)
    recipes = Table("", *("\n".join(names) for names in columns.values()), title="recipes")
    for name in settings:
        recipes.add_row(name, *(f"{getattr(recipe, name):g}" for recipe in columns))
    console.print(recipes)


def _checkpoint(checkpoint: Checkpoint) -> None:
    meta = checkpoint.meta
    check_header(checkpoint)
    if "spec" in meta["about"]:  # as train wrote it
        rebuild(checkpoint)  # or what is shown might be of no model
    place, best, test = meta["place"], meta["best"], meta["test"]
    state = _table("run")
    images = meta["about"]["images"]
    state.add_row("data", f"{images['name']}: {images['train']:,} train, {images['test']:,} test")
    state.add_row("source", images["source"])
    if meta.get("root") is not None:
        state.add_row("read from", meta["root"])
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
