"""When the entries of a state come to rest: curves, and maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .style import canvas, looks, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


LONG = 200  # steps, from which on the axis is logarithmic
Curve = tuple[Sequence[float], Sequence[float]]


def convergence_figure(
    curves: Mapping[str, Curve],
    maps: Mapping[str, Tensor],
    *,
    saved: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Draw which share of a state still moves, where and until when, and what it saves to know it.

    Arguments:
        curves: steps, and the share of entries that are not at rest before each, in [0, 1].
        maps: the step of coming to rest, (height, width) each; NaN is left blank.
        saved: for each way to solve its figures, such as {"multiply-adds": 0.2, "time": 0.5}, in
            parts of the first's.
    """
    count = 1 + len(maps) + (saved is not None)
    figure = canvas(3.4 * count, 3.2)
    panels = figure.subplots(1, count, squeeze=False)[0]
    _curves(panels[0], curves)
    for panel, (name, steps) in zip(panels[1:], maps.items(), strict=False):
        drawn = panel.imshow(steps.double().cpu().tolist(), cmap="viridis", interpolation="nearest")
        panel.set_title(name, fontsize=9)
        panel.set_axis_off()
        figure.colorbar(drawn, ax=panel, shrink=0.85).ax.tick_params(labelsize=7)
    if saved is not None:
        _bars(panels[-1], saved)
    return figure


def _curves(axes: Axes, curves: Mapping[str, Curve]) -> None:
    for (color, style), (name, (steps, moving)) in zip(
        looks(len(curves)), curves.items(), strict=True
    ):
        line = [100 * share for share in moving]
        axes.plot(steps, line, style, color=color, label=name, linewidth=1.4)
    if max(steps[-1] for steps, _ in curves.values()) > LONG:
        axes.set_xscale("symlog", linthresh=10)
    axes.set(xlabel="iteration", ylim=(-2, 102))
    axes.set_title("entries that still move (%)", fontsize=9)
    axes.legend(frameon=False, fontsize=7)
    plain(axes)


def _bars(axes: Axes, saved: Mapping[str, Mapping[str, float]]) -> None:
    figures = list(dict.fromkeys(name for each in saved.values() for name in each))
    height = 0.8 / len(figures)
    places = torch.arange(len(saved)).double()
    for k, ((color, _), figure) in enumerate(zip(looks(len(figures)), figures, strict=True)):
        held = [each.get(figure, float("nan")) for each in saved.values()]
        axes.barh((places + k * height).tolist(), held, height, color=color, label=figure)
    axes.axvline(1, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_yticks((places + height * (len(figures) - 1) / 2).tolist(), list(saved))
    axes.invert_yaxis()
    axes.set_title(f"cost, in parts of {next(iter(saved))}", fontsize=9)
    axes.legend(frameon=False, fontsize=7)
    plain(axes)


def tradeoff_figure(
    panels: Mapping[str, Mapping[str, Curve]],
    *,
    x: str,
    y: str,
    limit: float | None = None,
    columns: int = 3,
) -> Figure:
    """Draw what ways of solving lose against what they save, one line a way.

    Arguments:
        panels: the points (x, y) of each way by its name, by the name of the panel.
        x: what is saved.
        y: what is lost.
        limit: a loss to mark; the panel ends at four times it.
        columns: of panels.
    """
    rows = -(-len(panels) // columns)
    columns = min(columns, len(panels))
    figure = canvas(3.3 * columns, 2.7 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    told: tuple[str, ...] = ()
    for axes, (title, ways) in zip(grid, panels.items(), strict=False):
        for (color, style), (name, (saved, lost)) in zip(
            looks(len(ways)), ways.items(), strict=True
        ):
            axes.plot(saved, lost, style, color=color, marker=".", label=name, linewidth=1.3)
        if limit is not None:
            axes.axhline(limit, color="0.4", linewidth=0.8, linestyle=":")
            axes.set_ylim(-limit, 4 * limit)
        axes.set_title(title, fontsize=9)
        if tuple(ways) != told:
            told = tuple(ways)
            axes.legend(frameon=False, fontsize=7)
        plain(axes)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    figure.supxlabel(x, fontsize=9)
    figure.supylabel(y, fontsize=9)
    return figure
