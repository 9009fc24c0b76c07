"""Neural collapse as training goes on, and of the ideal network as classes become imbalanced."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .style import COLORS, canvas, colors, looks, plain, widths

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


def collapse_figures(found: Mapping[str, Any]) -> dict[str, Figure]:
    """Draw what `CollapseStudy` found."""
    trained = {peer: run["points"] for peer, run in found["balanced"].items()}
    return {"curves": collapse_figure(trained), "minority": minority_figure(found)}


def minority_figure(found: Mapping[str, Any]) -> Figure:
    """Draw the minority of ideal and trained networks: its classifiers' cosines, and how many of
    its test images are classified rightly."""
    figure = canvas(9.6, 3.2)
    ideal, trained, right = figure.subplots(1, 3)
    for (gain, rows), color, width in zip(
        found["ideal"].items(), colors(len(found["ideal"])), widths(len(found["ideal"])),
        strict=True,
    ):  # fmt: skip
        at, cosines = [row["ratio"] for row in rows], [row["cosine"] for row in rows]
        name = f"DEQ, gain {gain}" if float(gain) > 1 else "explicit"
        ideal.plot(at, cosines, ".-", color=color, label=name, linewidth=width / 1.5)
    ideal.set(xscale="log", xlabel="imbalance R")
    ideal.set_title("cosine of the minority's classifiers: ideal", fontsize=9)
    ideal.legend(frameon=False, fontsize=8)
    for (peer, runs), color in zip(found["imbalanced"].items(), COLORS, strict=False):
        for k, run in enumerate(runs):
            at = [point["epoch"] for point in run["points"]]
            cosines = [point["minority_cosine"] for point in run["points"]]
            named = {"label": peer} if k == 0 else {}
            trained.plot(at, cosines, ".-", color=color, linewidth=1.2, **named)
    trained.set(xlabel="epoch")
    trained.set_title("... of trained networks", fontsize=9)
    trained.legend(frameon=False, fontsize=8)
    parts = ("majority", "minority", "overall")
    for k, ((_, runs), color) in enumerate(zip(found["imbalanced"].items(), COLORS, strict=False)):
        for j, part in enumerate(parts):
            values = [100 * run[part] for run in runs]
            right.plot([j + 0.18 * (k - 1)] * len(values), values, "o", color=color, markersize=4)
    right.set_xticks(range(len(parts)), parts)
    right.set_ylim(-2, 102)
    right.set_title("right on test images (%)", fontsize=9)
    for axes in (ideal, trained, right):
        plain(axes)
    return figure
