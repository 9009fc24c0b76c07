"""Neural collapse as training goes on, and of the ideal network as classes become imbalanced."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .style import canvas, looks, plain, widths

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = Sequence[Mapping[str, float | None]]

PANELS = {
    "nc1": "NC1: tr(S_W S_B+) / K",
    "nc2_means": "NC2: class means from a simplex",
    "nc2_weights": "NC2: classifiers from a simplex",
    "nc3": "NC3: classifiers from class means",
    "nc4": "NC4: not the nearest mean's class (%)",
    "nc2_norms": "spread of the means' norms",
}
PASS = 0.05  # as `Collapse.vertices` and `Collapse.self_dual`


def collapse_figure(curves: Mapping[str, Curve], over: str = "epoch") -> Figure:
    """Draw NC1 to NC4 of one network or several; all go to 0 as a network collapses.

    Arguments:
        curves: by name, points in time, each as `Collapse.figures` returns it and with `over`.
        over: what the points are numbered by.
    """
    figure = canvas(9.6, 5.4)
    panels = figure.subplots(2, 3, sharex=True).ravel()
    for panel, (key, title) in zip(panels, PANELS.items(), strict=True):
        scale = 100 if "%" in title else 1
        for (name, curve), (color, line), width in zip(
            curves.items(), looks(len(curves)), widths(len(curves)), strict=True
        ):
            at = [point[over] for point in curve]
            values = [math.nan if (y := point[key]) is None else scale * y for point in curve]
            panel.plot(at, values, line, marker=".", color=color, label=name, linewidth=width / 2)
        if key in ("nc2_means", "nc3"):
            panel.axhline(PASS, color="0.4", linewidth=0.8, linestyle=":")
        panel.margins(y=0.08)
        if key == "nc1":
            panel.set_yscale("log")
            panel.tick_params(which="minor", labelsize=7)
        else:
            panel.set_ylim(bottom=0)
        panel.set_title(title, fontsize=9)
        plain(panel)
    if len(curves) > 1:
        panels[0].legend(frameon=False, fontsize=8)
    figure.supxlabel(over, fontsize=9)
    return figure
