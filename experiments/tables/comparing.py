"""Families of models beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homotopy_deq.comparison import bands, cells
from homotopy_deq.comparison.summary import HEAD

from .markdown import measured, result, section, table

LOST = 0.1
"""Accuracy lost by a swap that is told of in words."""
EXPLICIT = "residual"


def title(what: str) -> str:
    """Return the heading of a comparison's table."""
    return f"Families of models on {what}"


def comparison(dataset: str, what: str, also: str = "") -> str:
    """One budget for every family, or nothing where it is not measured; and what else to say."""
    name = f"compare_{dataset}"
    if not measured(name):
        return ""
    body = result(name)["result"]
    models, images = body["models"], body["images"]
    some = next(iter(models.values()))
    training, seeds = some["settings"], len(some["seeds"])
    rows = []
    for model, row in models.items():
        first, accuracy, *rest = cells(model, row)
        rows.append((first, accuracy, *bands(row), *rest))
    notes = "".join(f" {note}" for note in body["notes"]) + _lost(models)
    return section(
        title(what),
        name,
        f"{images['train']:,} images of {images['name']}, validation among them, "
        f"{training['epochs']} epochs, {seeds} seed{'s' if seeds > 1 else ''}, each model with its "
        f"own solver; tested on {images['test']:,} images. A training step: evaluations forward "
        "(mean over the images) and products with the Jacobian's transpose back (for the batch), "
        "median seconds, memory beyond model and images. A splitting's steps back apply W's "
        "transpose and its resolvent, which are not among these products. Swapped: the same "
        f"weights under the other solver that costs most accuracy.{notes}{also}",
        *table((*HEAD[:2], "of the seeds", "of the images (95%)", *HEAD[2:]), rows),
    )


def _lost(models: Mapping[str, Any]) -> str:
    """Say in full what swaps cost a model much."""
    text = ""
    for model, row in models.items():
        swapped = row.get("swapped") or {}
        if any(row["accuracy"]["mean"] - each["accuracy"] > LOST for each in swapped.values()):
            told = ", ".join(
                f"{solver} {100 * each['accuracy']:.1f}% (converged, or reached t1: "
                f"{100 * each['converged']:.0f}%)"
                for solver, each in swapped.items()
            )
            text += (
                f" {model} has a W so large that fixed-point steps and flows in steps of 1 run "
                f"away: by {told}."
            )
    return text


def families() -> str:
    """The accuracies of the families, and what their cheapest step takes."""
    body = result("compare_digits")["result"]
    models = body["models"]
    implicit = [name for name in models if name != EXPLICIT]

    def accuracy(name: str) -> float:
        return float(models[name]["accuracy"]["mean"])

    def milliseconds(name: str) -> float:
        return 1000 * float(models[name]["step"]["seconds"])

    worst, best = (f(implicit, key=accuracy) for f in (min, max))
    quick = min(implicit, key=milliseconds)
    family, *_ = worst.split()
    said = (
        f"{len(implicit)} implicit families with one budget on the digits, "
        f"{len(models[best]['seeds'])} seeds: {100 * accuracy(worst):.2f}% ({family}) to "
        f"{100 * accuracy(best):.2f}% ({best}); the quickest step, {quick}'s, takes "
        f"{milliseconds(quick):.0f} ms"
    )
    if EXPLICIT in models:
        said += (
            f"; an explicit residual network {100 * accuracy(EXPLICIT):.2f}%, "
            f"{milliseconds(EXPLICIT):.0f} ms"
        )
    return said
