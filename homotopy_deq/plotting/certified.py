"""Certified accuracy against radius."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..certification.summary import Summary
from .style import canvas, looks, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def certified_figure(runs: Mapping[str, Summary], *, level: float = 0.95) -> Figure:
    """Draw certified accuracy against radius, one line a run.

    The line is the share of images certified correctly at the radius. Its band is Clopper and
    Pearson's for so many images at each radius; it says what another sample of images would give.
    The legend says in which sense the claims hold, and in which norm, for each line where they
    differ.

    Arguments:
        runs: the certificates of each run by its name.
        level: of confidence of the bands.
    """
    figure = canvas(7.2, 4.4)
    axes = figure.subplots()
    kinds, norms = ({getattr(run, name) for run in runs.values()} for name in ("holds", "norm"))
    far = max(run.reach for run in runs.values()) or 1.0
    for (color, style), (name, run) in zip(looks(len(runs)), runs.items(), strict=True):
        # A share holds up to its radius, inclusive: steps are drawn from their right ends.
        curve = run.accuracy(np.unique(np.append(run.radius[run.correct], 0)), level)
        percent = [100 * part for part in (curve.accuracy, curve.low, curve.high)]
        x, y = np.append(curve.radius, curve.radius[-1]), np.append(percent[0], 0)
        differing = [run.holds] * (len(kinds) > 1) + [run.norm] * (len(norms) > 1)
        label = f"{name}: {', '.join(differing)}" if differing else name
        axes.step(x, y, style, where="pre", color=color, label=label, lw=1.6)
        axes.fill_between(
            curve.radius, percent[1], percent[2], step="pre", color=color, alpha=0.12, lw=0
        )
    axes.set(xlim=(0, 1.05 * far), ylim=(0, 100), ylabel="certified accuracy (%)")
    images = sorted({run.images for run in runs.values()})
    count = f"{images[0]:,}" if len(images) == 1 else f"{images[0]:,} to {images[-1]:,}"
    radius = f"{norms.pop()} radius" if len(norms) == 1 else "radius in the norm of each line"
    axes.set_xlabel(f"{radius}, images in [0, 1]   ({count} images, bands {level:.0%})")
    title = f"run ({kinds.pop()})" if len(kinds) == 1 else "run"
    axes.legend(frameon=False, fontsize=8, loc="upper right", title=title, title_fontsize=8)
    plain(axes)
    return figure
