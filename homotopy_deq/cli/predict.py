"""homotopy-deq predict"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import torch
import typer
from rich.table import Table

from ..data import read_images
from ..training import load_checkpoint
from . import options
from .report import console, failing
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
    """Classify image files: the most probable classes, and whether the solver converged.

    Images are made grey or RGB and resized as the model's train images were.
    """
    checkpoint = load_checkpoint(find_checkpoint(run))
    model = rebuild(checkpoint)
    if solver is not None:
        model = spec_of(checkpoint).path_by(solver).put(model)
    classes = checkpoint.meta["about"]["classes"]
    channels, height, width = model.shape
    pixels = read_images(images, (channels, height, width))
    device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
    model.to(device)
    rows = []
    with torch.no_grad():
        for k in range(0, len(images), batch):
            some, files = pixels[k : k + batch], images[k : k + batch]
            output = model.solve(some.to(device).float() / 255)
            best = output.logits.softmax(1).topk(min(top, len(classes)))
            solved = output.solution
            rows += [
                {
                    "image": str(file),
                    "classes": [
                        {"class": classes[k], "probability": p}
                        for p, k in zip(values, places, strict=True)
                    ],
                    "converged": converged,
                    "evaluations": evals,
                }
                for file, values, places, converged, evals in zip(
                    files,
                    best.values.tolist(),
                    best.indices.tolist(),
                    solved.converged.tolist(),
                    solved.evals.tolist(),
                    strict=True,
                )
            ]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("image", "class", "probability", "converged", "NFE")
    for row in rows:
        for k, each in enumerate(row["classes"]):
            first = (row["image"], "yes" if row["converged"] else "no", str(row["evaluations"]))
            name, converged, evals = first if k == 0 else ("", "", "")
            table.add_row(name, each["class"], f"{each['probability']:.1%}", converged, evals)
    console.print(table)
