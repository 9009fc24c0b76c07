"""How all figures look, and how one is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# M. Okabe and K. Ito (2008), Color universal design: told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")


def canvas(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches."""
    from matplotlib.figure import Figure  # not pyplot: no global state and no display

    return Figure(figsize=(width, height), layout="constrained")


def plain(axes: Axes) -> None:
    """Draw a faint grid and no more of a frame than is read."""
    axes.grid(True, color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def colors(count: int) -> list[str]:
    """Return a colour each."""
    return [COLORS[k % len(COLORS)] for k in range(count)]


def widths(count: int) -> list[float]:
    """Return a line width each, ever narrower: a line under one like it can still be seen."""
    return [4.2 - 3.0 * k / max(count - 1, 1) for k in range(count)]


def looks(count: int) -> list[tuple[str, str]]:
    """Return a colour and a line style each: dashed once the colours are used up."""
    return [(color, "-" if k < len(COLORS) else "--") for k, color in enumerate(colors(count))]


def save(figure: Figure, path: Path) -> Path:
    """Write a figure to a PNG (or what the suffix says), making its folder.

    Arguments:
        figure: to be written.
        path: of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path
