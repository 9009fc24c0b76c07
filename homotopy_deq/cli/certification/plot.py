"""homotopy-deq plot-certified"""

from __future__ import annotations

from ... import plotting
from ...plotting import certified_figure
from ..report import console
from .options import PlotCertified
from .runs import called, open_runs


def command(chosen: PlotCertified) -> None:
    """Draw certified accuracy against radius."""
    folders = chosen.folders
    runs = open_runs(folders)
    for run in runs:
        if run.asked is not None:
            raise ValueError(
                f"{run.folder} holds decisions at radius {run.asked:g} alone, which make no curve: "
                "give folders that certify wrote."
            )
    curves = {}
    for name, run in zip(called(runs), runs, strict=True):
        cost = "" if run.proved else f" ({run.summary.evaluations:.1f} evaluations a sample)"
        curves[name + cost] = run.summary
    path = plotting.save(
        certified_figure(curves, level=chosen.level), chosen.out or folders[0] / "certified.png"
    )
    console.print(f"wrote {path}", highlight=False, soft_wrap=True)
