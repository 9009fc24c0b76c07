"""homotopy-deq predict"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import torch
import typer
from rich.table import Table

from ..data import read_images
from ..models import ImageModel
from ..training import load_checkpoint
from . import options
from .report import console, fail, failing, warn
from .spec import find_checkpoint, rebuild, spec_of


@failing
def command(
    run: options.RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG or JPEG files.")],
    solver: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Forward pass (homotopy-deq info lists them). Default: the training's."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to name for each image.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    batch: options.Batch = 256,
    cpu: options.Cpu = False,
) -> None:
    """Classify image files: the most probable classes, and whether the solver succeeded.

    Images are made grey or RGB and resized as the model's train images were. A file that cannot be
    read is told after the answers for the others, and the exit status is then 1.
    """
    checkpoint = load_checkpoint(find_checkpoint(run))
    model, path = rebuild(checkpoint), spec_of(checkpoint).path
    if solver is not None:
        path = spec_of(checkpoint).path_by(solver)
        model = path.put(model)
    success = path.success
    classes = checkpoint.meta["about"]["classes"]
    device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
    model.to(device)
    rows: list[dict[str, Any]] = []
    for k in range(0, len(images), batch):
        rows += _rows(model, images[k : k + batch], classes, min(top, len(classes)))
    bad = [row["error"] for row in rows if "error" in row]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif len(bad) < len(rows):
        console.print(_table(rows, success))
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
    table = Table("image", "class", "probability", success, "NFE")
    for row in rows:
        for k, each in enumerate(row.get("classes", ())):
            first = (row["image"], "yes" if row["converged"] else "no", str(row["evaluations"]))
            name, converged, evals = first if k == 0 else ("", "", "")
            table.add_row(name, each["class"], f"{each['probability']:.1%}", converged, evals)
    return table
