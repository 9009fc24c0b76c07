"""The ways of solvers: their residuals, and their states in a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from solvers import Trajectory

from .style import canvas, colors, looks, plain, widths

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def residual_figure(paths: Mapping[str, Trajectory[Tensor]], tolerance: float) -> Figure:
    """Draw ||f(z) - z|| / ||f(z)|| against evaluations of f, one line a solver.

    A line is the median over the batch and its band holds the middle 80% of the samples.

    Arguments:
        paths: the trajectory of each solver by its name.
        tolerance: the relative residual at which a sample has converged, drawn as a line.
    """
    figure = canvas(7.2, 4.4)
    draw_residuals(figure.subplots(), paths, tolerance)
    return figure


def draw_residuals(axes: Axes, paths: Mapping[str, Trajectory[Tensor]], tolerance: float) -> None:
    """Draw what `residual_figure` shows into axes."""
    drawn = zip(looks(len(paths)), widths(len(paths)), paths.items(), strict=True)
    for (color, style), width, (name, path) in drawn:
        evals = path.evals.clamp_min(1).tolist()
        residual = path.residual.double().nan_to_num(nan=1e30, posinf=1e30).clamp_min(1e-16)
        low, middle, high = torch.quantile(
            residual, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), dim=1
        ).tolist()
        axes.plot(evals, middle, style, color=color, label=name, linewidth=width)
        axes.plot(evals[-1:], middle[-1:], "o", color=color, markersize=4)
        axes.fill_between(evals, low, high, color=color, alpha=0.12, linewidth=0)
    axes.axhline(tolerance, color="0.4", linewidth=0.8, linestyle=":")
    axes.annotate(
        f"tolerance {tolerance:g}", (0.995, tolerance), xycoords=("axes fraction", "data"),
        ha="right", va="bottom", fontsize=8, color="0.3",
    )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="evaluations of f (Jacobian products included)")
    axes.set_ylabel("relative residual (median, middle 80%)")
    axes.legend(frameon=False, fontsize=8, ncols=2, title="solver", title_fontsize=8)
    plain(axes)


def path_figure(
    paths: Mapping[str, Tensor], labels: Sequence[str] = (), *, columns: int = 3
) -> Figure:
    """Draw how z travels, in the plane of the first two principal components: see `project`.

    One panel a solver on the same axes, one colour a sample; a dot where a path begins and a
    star where it ends. A triangle on the border marks where a path runs out of the axes.

    Arguments:
        paths: the states (T, B, ...) that each solver passed through, by its name; the same B
            samples for all.
        labels: what to call the samples.
    """
    points = project([path.flatten(2) for path in paths.values()])
    rows = -(-len(paths) // columns)
    columns = min(columns, len(paths))
    figure = canvas(3.1 * columns, 2.9 * rows + 0.4)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for panel, name, path in zip(panels[: len(paths)], paths, points, strict=True):
        for sample, color in enumerate(colors(path.shape[1])):
            x, y = path[:, sample].T.tolist()
            label = labels[sample] if sample < len(labels) else None
            panel.plot(x, y, "-", color=color, linewidth=1.1, marker=".", markersize=3)
            panel.plot(x[-1:], y[-1:], "*", color=color, markersize=9, label=label, zorder=3)
            panel.plot(x[:1], y[:1], "o", color="0.25", markersize=4, zorder=3)
        panel.set_title(name, fontsize=9)
        plain(panel)
    for panel in panels[max(len(paths) - columns, 0) : len(paths)]:
        panel.tick_params(labelbottom=True)  # also where the panel below is none
    for panel in panels[len(paths) :]:
        panel.set_axis_off()
    first = figure.axes[0]
    _zoom(first, points)
    for panel, path in zip(panels, points, strict=False):
        _mark_outside(panel, path)
    figure.supxlabel("first principal component", fontsize=9)
    figure.supylabel("second principal component", fontsize=9)
    if labels:
        handles, names = first.get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside upper center", ncols=8, frameon=False, fontsize=8,
            title="samples", title_fontsize=8,
        )  # fmt: skip
    return figure


def project(paths: Sequence[Tensor]) -> list[Tensor]:
    """Project paths (T, B, n) on their first two principal components: (T, B, 2).

    The components are those of the points that are not much farther from their start than the
    farthest end is: wild iterates of one solver must not choose the plane of the others.

    Arguments:
        paths: one for each solver, (T, B, n) with a T of its own.
    """
    far = [(path - path[0]).norm(dim=2) for path in paths]
    reach = 1.5 * torch.stack([distance[-1].max() for distance in far]).max()
    tame = torch.cat([path[distance <= reach] for path, distance in zip(paths, far, strict=True)])
    centre, axes = plane(tame)
    return [(path.double().cpu() - centre) @ axes for path in paths]


def plane(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centre (n,) and the first two principal components (n, 2) of points (N, n)."""
    points = points.double().cpu()
    centre = points.mean(0)
    # The eigenvectors of the Gram matrix give the singular vectors, at the cost of the fewer.
    values, vectors = torch.linalg.eigh((points - centre) @ (points - centre).T)
    scale = values[-2:].flip(0).clamp_min(1e-30).sqrt()
    return centre, (points - centre).T @ vectors[:, -2:].flip(1) / scale


def _zoom(axes: Axes, points: Sequence[Tensor]) -> None:
    """Show every start and end and most of the rest: one wild iterate must not hide the others."""
    flat = torch.cat([path.flatten(0, 1) for path in points])
    ends = torch.cat([end for path in points for end in (path[0], path[-1])])
    bulk = torch.quantile(flat, torch.tensor([0.02, 0.98], dtype=flat.dtype), dim=0)
    low = torch.minimum(ends.amin(0), bulk[0])
    high = torch.maximum(ends.amax(0), bulk[1])
    room = (high - low) / 2  # what is this near is shown, too
    low = torch.maximum(flat.amin(0), low - room)
    high = torch.minimum(flat.amax(0), high + room)
    margin = 0.08 * (high - low).clamp_min(1e-9)
    (left, bottom), (right, top) = (low - margin).tolist(), (high + margin).tolist()
    axes.set(xlim=(left, right), ylim=(bottom, top))


def _mark_outside(axes: Axes, path: Tensor) -> None:
    """Mark where paths (T, B, 2) cross the border of the axes, a colour a sample."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    low, high = path.new_tensor([left, bottom]), path.new_tensor([right, top])
    outside = ((path < low) | (path > high)).any(2)
    for sample, color in enumerate(colors(path.shape[1])):
        for k in (outside[1:, sample] != outside[:-1, sample]).nonzero().flatten().tolist():
            a, b = path[k, sample], path[k + 1, sample]
            a, b = (b, a) if outside[k, sample] else (a, b)  # from within
            reach = torch.where(b > a, high - a, low - a) / (b - a)
            x, y = (a + (b - a) * reach[b != a].min()).tolist()
            axes.scatter([x], [y], marker="^", color=color, s=26, clip_on=False, zorder=4)
