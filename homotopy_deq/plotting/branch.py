"""Draw branches of roots: one coordinate against lambda, with folds and stability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from solvers.homotopy import Branch

from .style import canvas, colors, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = 8  # points drawn for each step of a branch


def largest(z: Tensor) -> Tensor:
    """Return the largest entry of each root of a branch, (T,).

    Arguments:
        z: roots, (T, ...).
    """
    return z.flatten(1).amax(1)


def rms(z: Tensor) -> Tensor:
    """Return the root mean square of each root of a branch, (T,).

    Arguments:
        z: roots, (T, ...).
    """
    return z.flatten(1).square().mean(1).sqrt()


def branch_figure(
    branches: Mapping[str, Branch],
    height: Callable[[Tensor], Tensor] = largest,
    *,
    xlabel: str = "lambda",
    ylabel: str = "largest entry of z",
    logy: bool = False,
) -> Figure:
    """Draw branches against lambda, with a dot at each fold and a square at each branch point.

    Roots that do not attract the flow z' = h(z) - z are dashed, where eigenvalues are known.

    Arguments:
        branches: what `trace` returned, by name.
        height: maps roots (T, ...) to what is drawn, (T,).
        xlabel: label of the horizontal axis.
        ylabel: label of the vertical axis.
        logy: whether the vertical axis is logarithmic.
    """
    figure = canvas(6.4, 4.4)
    axes = figure.subplots()
    dashed = False
    for color, (name, branch) in zip(colors(len(branches)), branches.items(), strict=True):
        z, lam = branch.refined(PARTS)
        x, y = lam.cpu().tolist(), height(z).cpu().tolist()
        known = branch.stable
        stable = [True] * len(x)
        if known is not None:  # a stretch between two points is as stable as the first
            stable = known[:-1].repeat_interleave(PARTS).tolist() + [bool(known[-1])]
        for first, last, good in _runs(stable):
            label = name if first == 0 else None
            style = "-" if good else "--"
            dashed |= not good
            axes.plot(
                x[first : last + 1], y[first : last + 1], style,
                color=color, label=label, linewidth=1.6,
            )  # fmt: skip
        folds = [(fold.lam, float(height(fold.z[None])[0])) for fold in branch.folds]
        if folds:
            axes.plot(*zip(*folds, strict=True), "o", color=color, markersize=5)
        for at, value in folds:
            axes.annotate(
                f"{at:.4f}", (at, value), textcoords="offset points", xytext=(7, 4), fontsize=8
            )
        crossings = [(x.lam, float(height(x.z[None])[0])) for x in branch.branch_points or ()]
        if crossings:
            axes.plot(*zip(*crossings, strict=True), "s", color=color, markersize=5)
    if dashed:
        axes.plot([], [], "--", color="0.4", label="unstable", linewidth=1.2)
    if any(branch.folds for branch in branches.values()):
        axes.plot([], [], "o", color="0.4", label="fold", markersize=5)
    if any(branch.branch_points for branch in branches.values()):
        axes.plot([], [], "s", color="0.4", label="branch point", markersize=5)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if logy:
        axes.set_yscale("log")
    axes.margins(x=0.1)
    plain(axes)
    axes.legend(frameon=False, fontsize=8, title="branch", title_fontsize=8)
    return figure


def _runs(stable: list[bool]) -> list[tuple[int, int, bool]]:
    """Return (first, last, stable) of each stretch; stretches share their border points."""
    borders = [k for k in range(1, len(stable)) if stable[k] != stable[k - 1]]
    firsts, lasts = [0, *borders], [*borders, len(stable) - 1]
    return [(a, b, stable[a]) for a, b in zip(firsts, lasts, strict=True)]
