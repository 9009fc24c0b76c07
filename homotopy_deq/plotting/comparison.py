"""Families of models beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .style import COLORS, canvas, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def comparison_figure(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw accuracy with both its bands, and what a training step takes: a row of dots a model.

    The wide band of the accuracy is that of the test images, the narrow one that of the seeds.

    Arguments:
        rows: what `homotopy_deq.comparison.summarise` returns, by the names of the models.
    """
    figure = canvas(9.0, 1.2 + 0.34 * len(rows))
    panels = figure.subplots(1, 4, sharey=True)
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows.values(), strict=True):
        accuracy, step = row["accuracy"], row["step"]
        for band, width in (("of the images", 1.2), ("of the seeds", 4.0)):
            ends = [100 * end for end in accuracy[band]]
            panels[0].plot(ends, [place] * 2, color=COLORS[0], linewidth=width, alpha=0.5)
        panels[0].plot(100 * accuracy["mean"], place, "o", color=COLORS[0], markersize=4)
        panels[1].plot(step["forward"], place, "o", color=COLORS[0], markersize=4)
        if step["backward"] is not None:
            panels[1].plot(step["backward"], place, "s", color=COLORS[1], markersize=4)
        panels[2].plot(step["seconds"], place, "o", color=COLORS[0], markersize=4)
        panels[3].plot(step["peak_mib"], place, "o", color=COLORS[0], markersize=4)
    panels[1].plot([], [], "o", color=COLORS[0], markersize=4, label="evaluations")
    panels[1].plot([], [], "s", color=COLORS[1], markersize=4, label="products back")
    panels[1].legend(frameon=False, fontsize=7)
    panels[0].set_yticks(list(places), list(rows))
    titles = ("test accuracy (%)", "a step: evaluations", "a step: seconds", "a step: peak MiB")
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title, fontsize=9)
        panel.set_ylim(0.5, len(rows) + 0.5)
        if panel is not panels[0]:
            panel.set_xlim(left=0)
        plain(panel)
    return figure
