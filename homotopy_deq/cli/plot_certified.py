"""homotopy-deq plot-certified"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .. import plotting
from ..plotting_certified import certified_figure
from .report import console, failing
from .runs import open_runs


@failing
def command(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders that certify wrote.")
    ],
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            metavar="FILE", help="The picture (.png, .pdf, .svg). Default: DIR/certified.png."
        ),
    ] = None,
    level: Annotated[
        float, typer.Option(help="Confidence of the bands, which are of the sample of images.")
    ] = 0.95,
) -> None:
    """Draw certified accuracy against radius, one curve a run, with binomial bands.

    A folder of several sigmas gives a curve each.
    """
    runs = open_runs(folders)
    for run in runs:
        if run.asked is not None:
            raise ValueError(
                f"{run.folder} holds decisions at radius {run.asked:g} alone, which make no curve: "
                "give folders that certify wrote."
            )
    curves = {}
    for run in runs:
        name = f"{run.name} ({run.summary.evaluations:.1f} evaluations a sample)"
        curves[name if name not in curves else f"{name}, {run.folder}"] = run.summary
    path = plotting.save(certified_figure(curves, level=level), out or folders[0] / "certified.png")
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
