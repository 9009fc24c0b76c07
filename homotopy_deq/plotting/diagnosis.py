"""Why a layer does not converge: residuals, and where the eigenvalues lie."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .paths import draw_residuals
from .style import COLORS, canvas, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..diagnosis import Diagnosis

CIRCLE = [2 * math.pi * k / 200 for k in range(201)]


def diagnosis_figure(found: Diagnosis) -> Figure:
    """Draw residuals against evaluations, and the eigenvalues of the Jacobian in the plane.

    Plain iteration contracts inside the unit circle, damped iteration left of the line at 1.

    Arguments:
        found: what `diagnose` returned.
    """
    figure = canvas(11.4, 4.4)
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": (3, 2)})
    paths = {name: each.path for name, each in found.tried.items() if each.path is not None}
    draw_residuals(left, paths, found.rtol)
    _eigenvalues(right, found)
    return figure


def _eigenvalues(axes: Axes, found: Diagnosis) -> None:
    values = found.spectrum.eigenvalues.cpu()
    axes.fill([math.cos(t) for t in CIRCLE], [math.sin(t) for t in CIRCLE], color="0.94", zorder=0)
    axes.plot([math.cos(t) for t in CIRCLE], [math.sin(t) for t in CIRCLE], color="0.5", lw=0.8)
    axes.axvline(1, color="0.5", linewidth=0.8, linestyle=":")
    for some, color, label in (
        (found.solved, COLORS[0], "at a root"),
        (~found.solved, COLORS[1], "at the best point, no root"),
    ):
        chosen = values[some].flatten()
        if len(chosen):
            real, imaginary = chosen.real.tolist(), chosen.imag.tolist()
            axes.plot(real, imaginary, ".", color=color, markersize=4, label=label, alpha=0.6)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel="real part", ylabel="imaginary part")
    axes.set_title("eigenvalues of the Jacobian, and the unit circle", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    plain(axes)
