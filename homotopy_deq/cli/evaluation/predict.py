"""homotopy-deq predict"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ...data import read_images
from ...models import ImageModel
from .. import options
from ..report import console, fail, warn
from ..resolve import pass_of
from ..trained import Trained


def command(chosen: options.Predict) -> None:
    """Classify image files."""
    chosen.machine.use()
    trained, images, batch = Trained.of(chosen.run.path), chosen.images, chosen.batch
    path = pass_of(trained.settings, chosen.solver)
    model, classes = path.put(trained.model), trained.classes
    model.to(chosen.machine.device())
    rows: list[dict[str, Any]] = []
    for k in range(0, len(images), batch):
        rows += _rows(model, images[k : k + batch], classes, min(chosen.top, len(classes)))
    bad = [row["error"] for row in rows if "error" in row]
    if chosen.json:
        print(json.dumps(rows, indent=2))
    elif len(bad) < len(rows):
        console.print(_table(rows, path.success))
    for error in bad:
        warn(error)
    if bad:
        fail(f"{len(bad)} of {len(rows)} files could not be read.", 1)


def _rows(
    model: ImageModel, files: Sequence[Path], classes: Sequence[str], top: int
) -> list[dict[str, Any]]:
    """Classify files; one that cannot be read has its error for an answer."""
    channels, height, width = model.shape
    rows: list[dict[str, Any]] = []
    pixels = []
    for file in files:
        rows.append({"image": str(file)})
        try:
            pixels.append(read_images([file], (channels, height, width)))
        except (ValueError, OSError) as error:
            rows[-1]["error"] = str(error)
    if not pixels:
        return rows
    with torch.no_grad():
        output = model.solve(torch.cat(pixels).to(model.normalize.mean.device).float() / 255)
    best, solved = output.logits.softmax(1).topk(top), output.solution
    good = (row for row in rows if "error" not in row)
    for row, values, places, converged, evals in zip(
        good,
        best.values.tolist(),
        best.indices.tolist(),
        solved.converged.tolist(),
        solved.evals.tolist(),
        strict=True,
    ):
        row["classes"] = [
            {"class": classes[k], "probability": p} for p, k in zip(values, places, strict=True)
        ]
        row["converged"] = converged
        row["evaluations"] = evals
    return rows


def _table(rows: Sequence[Mapping[str, Any]], success: str) -> Table:
    table = Table("image", "class", "probability", success, "evals")
    for row in rows:
        for k, each in enumerate(row.get("classes", ())):
            first = (row["image"], "yes" if row["converged"] else "no", str(row["evaluations"]))
            name, converged, evals = first if k == 0 else ("", "", "")
            table.add_row(name, each["class"], f"{each['probability']:.1%}", converged, evals)
    return table
