"""What a training went through, epoch by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .style import COLORS, canvas, plain, widths

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_figure(epochs: Sequence[Mapping[str, Any]], success: str = "converged") -> Figure:
    """Draw loss, accuracy, evaluations and convergence of each epoch.

    Arguments:
        epochs: one record an epoch, as `train` writes them to metrics.jsonl.
        success: what is claimed of a sample that its solver did not fail on.
    """
    figure = canvas(7.6, 5.2)
    count = [record["epoch"] for record in epochs]
    titles = {
        "loss": "cross entropy",
        "accuracy": "accuracy (%)",
        "nfe": "evaluations a sample",
        "converged": f"{success} (%)",
    }
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        scale = 100 if "%" in title else 1
        parts = zip(COLORS[:2], widths(2), ("train", "validation"), strict=True)
        for color, width, part in parts:
            values = [scale * record[part][key] for record in epochs]
            panel.plot(count, values, ".-", color=color, label=part, linewidth=width)
        panel.set_title(title, fontsize=9)
        if key == "converged":
            panel.set_ylim(-2, 102)
        if key == "nfe":
            panel.set_ylim(bottom=0)
        plain(panel)
    figure.axes[0].legend(frameon=False, fontsize=8, title="images", title_fontsize=8)
    figure.supxlabel("epoch", fontsize=9)
    return figure
