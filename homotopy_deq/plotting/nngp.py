"""Figures of the limit of infinite width, from what `NNGPStudy` found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .style import COLORS, canvas, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Found = Mapping[str, Any]
NOTHING = 1e-16


def nngp_figures(found: Found) -> dict[str, Figure]:
    """Draw what `NNGPStudy` found: the limits, least eigenvalues, depth as width, and learning."""
    return {
        "limit": limit_figure(found["width"], found["outputs"]),
        "eigenvalues": eigenvalue_figure(found["eigenvalues"]),
        "exchange": exchange_figure(found["exchange"]),
        "learning": learning_figure(learnt(found)),
    }


def limit_figure(width: Found, outputs: Found) -> Figure:
    """Draw the error of the covariance against width, and outputs with their Gaussian: the density
    of one, and three of them in pairs."""
    figure = canvas(12.4, 3.2)
    error, *densities, pair = figure.subplots(1, 2 + len(outputs))
    n: tuple[int, ...] = ()
    for color, (name, each) in zip(COLORS, width.items(), strict=False):
        n, mean, bar = zip(
            *([row[k] for k in ("width", "mean", "deviation")] for row in each["rows"]), strict=True
        )
        error.errorbar(
            n,
            mean,
            bar,
            fmt="o",
            color=color,
            markersize=4,
            label=f"{name}: slope {each['slope']:.3f}",
        )
        error.plot(n, [mean[0] * n[0] / each_n for each_n in n], ":", color=color, linewidth=1.2)
    error.set(xscale="log", yscale="log", xlabel="width n")
    _ticks(error, n)
    error.set_ylabel("squared relative error", fontsize=9)
    error.set_title("covariance of outputs; dotted: 1/n", fontsize=9)
    error.legend(frameon=False, fontsize=8)
    grid = [k / 20 for k in range(-80, 81)]
    for axes, color, (name, each) in zip(densities, COLORS, outputs.items(), strict=False):
        edges = each["histogram"]["edges"]
        axes.stairs(each["histogram"]["density"], edges, color=color, fill=True, alpha=0.4)
        axes.plot(grid, [math.exp(-u * u / 2) / math.sqrt(2 * math.pi) for u in grid], "k", lw=1)
        axes.set_xlabel("output / predicted deviation", fontsize=9)
        axes.set_title(f"{name}: density, KS {each['ks'][0]:.4f}\n(line: normal)", fontsize=9)
        if name == next(iter(outputs)):
            for shade, (i, j) in zip(COLORS, ((0, 1), (0, 2), (1, 2)), strict=False):
                points = [(row[i], row[j]) for row in each["three outputs"][:300]]
                pair.plot(*zip(*points, strict=True), ".", color=shade, markersize=2.5,
                          label=f"outputs {i + 1} and {j + 1}")  # fmt: skip
    turn = [2 * math.pi * k / 200 for k in range(201)]
    for radius in (1, 2, 3):  # at which all three pairs have the same density
        pair.plot(
            [radius * math.cos(a) for a in turn], [radius * math.sin(a) for a in turn], "k", lw=0.6
        )
    pair.set(xlim=(-4, 4), ylim=(-7.5, 4), aspect="equal")  # the legend is under the points
    pair.set_yticks(range(-4, 5, 2))
    pair.set_xlabel("output / predicted deviation", fontsize=9)
    pair.set_title(f"{next(iter(outputs))}: pairs of outputs\n(a point a network)", fontsize=9)
    pair.legend(frameon=False, fontsize=7, loc="lower center")
    for axes in figure.axes:
        plain(axes)
    return figure


def eigenvalue_figure(values: Found) -> Figure:
    """Draw the least eigenvalue of the kernel against iteration, sigma_w and width.

    `NOTHING` stands for 0 and what rounding makes of it.
    """
    figure = canvas(9.6, 3.2)
    depth, sigma, width = figure.subplots(1, 3, sharey=True)
    for axes, what, label in ((depth, "depth", "iteration"), (sigma, "sigma_w", "$\\sigma_w$"),
                              (width, "width", "width n")):  # fmt: skip
        for color, name in zip(COLORS, ("relu", "tanh"), strict=False):
            if name in values[what]:
                axes.plot(values[what]["at"], [max(v, NOTHING) for v in values[what][name]], "o-",
                          color=color, label=name, markersize=3, linewidth=1.4)  # fmt: skip
        axes.set(yscale="log", xlabel=label)
        plain(axes)
    for color, (name, value) in zip(COLORS, values["with an antipodal pair"].items(), strict=False):
        depth.axhline(max(abs(value), NOTHING), color=color, linestyle=":", linewidth=1.4,
                      label=f"{name}, two inputs antipodal")  # fmt: skip
    width.axhline(values["limit"], color="0.4", linestyle=":", linewidth=1.2, label="limit")
    width.axvline(values["inputs"], color="0.7", linewidth=0.8, label="as many inputs")
    width.set(xscale="log")
    depth.set_ylabel(f"least eigenvalue, {values['inputs']} digits", fontsize=9)
    for axes in (depth, width):
        axes.legend(frameon=False, fontsize=7)
    return figure


def exchange_figure(exchange: Found) -> Figure:
    """Draw kernels of networks as deep as wide beside those of infinite width, and what depth does
    to the latter: a DEQ's have a limit, a plain network's tell no inputs apart."""
    figure = canvas(9.6, 3.2)
    share, off, depth = figure.subplots(1, 3)
    n: tuple[int, ...] = ()
    for color, (name, rows) in zip(COLORS, exchange["depth is width"].items(), strict=False):
        n, low, middle, high, far = zip(
            *([row[k] for k in ("width", "low", "median", "high", "off")] for row in rows),
            strict=True,
        )
        share.plot(n, middle, "o-", color=color, label=name, markersize=4)
        share.fill_between(n, [max(v, 1e-4) for v in low], high, color=color, alpha=0.15, lw=0)
        off.plot(
            n,
            far,
            "o-",
            color=color,
            markersize=4,
            label=f"{name}: slope {exchange['slope'][name]:.2f}",
        )
    for color, name in zip(COLORS, exchange["depth is width"], strict=False):
        line = exchange["correlation"]
        depth.plot(line["depth"], line[name], "o-", color=color, label=name, markersize=4)
    share.set(xscale="log", yscale="log", ylim=(1e-3, 10), xlabel="depth = width")
    _ticks(share, n)
    share.set_title("k(x, x) over that of infinite width\n(median, middle 80%)", fontsize=9)
    off.set(xscale="log", yscale="log", ylim=(0.03, 3), xlabel="depth = width")
    _ticks(off, n)
    off.set_title("median distance from it", fontsize=9)
    depth.set(xscale="log", xlabel="depth, width infinite")
    depth.set_title("correlation of two digits", fontsize=9)
    for axes in figure.axes:
        plain(axes)
        axes.legend(frameon=False, fontsize=8)
    return figure


def learnt(found: Found) -> dict[str, Any]:
    """Return what `learning_figure` draws of parts: kernels by ridge, networks by epoch."""
    ridges, networks = {}, {}
    for part, each in found.items():
        kind, *name = part.split("_")
        if kind == "kernels":
            for kernel in ("nngp", "ntk"):
                ridges[f"{kernel}, {float(name[0]):.0%} wrong"] = each[kernel]
        if kind == "deq":
            networks[f"width {name[0]}, {float(name[1]):.0%} wrong"] = each["curve"]
    return {"ridges": ridges, "networks": networks}


def learning_figure(found: Found) -> Figure:
    """Draw accuracies of the kernels' regression by ridge, and of trained DEQs by epoch."""
    figure = canvas(9.6, 4.2)
    kernels, networks = figure.subplots(1, 2, sharey=True)
    for color, (name, each) in zip(COLORS, found["ridges"].items(), strict=False):
        ridge = [max(row["ridge"], 1e-7) for row in each["rows"]]
        kernels.plot(
            ridge,
            [100 * row["test"] for row in each["rows"]],
            "o-",
            color=color,
            label=name,
            markersize=3,
        )
        kernels.plot(ridge, [100 * row["train"] for row in each["rows"]], ":", color=color)
    for color, (name, curve) in zip(COLORS, found["networks"].items(), strict=False):
        epochs = range(1, len(curve) + 1)
        networks.plot(epochs, [100 * row["test"] for row in curve], color=color, label=name)
        networks.plot(epochs, [100 * row["train"] for row in curve], ":", color=color)
    kernels.set(xscale="log", xlabel="ridge, of the mean of the diagonal (left end: none)")
    kernels.set_ylabel("accuracy (%); dotted: of what is learnt", fontsize=9)
    kernels.set_title("regression with the kernels", fontsize=9)
    networks.set(xlabel="epoch")
    networks.set_title("trained DEQs", fontsize=9)
    for axes in (kernels, networks):
        plain(axes)  # the legends stand below: curves go everywhere
        axes.legend(
            frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17)
        )
    return figure


def _ticks(axes: Axes, values: Sequence[float]) -> None:
    """Put ticks at these values of a logarithmic axis, and nowhere else."""
    axes.set_xticks(values, [f"{each:g}" for each in values])
    axes.minorticks_off()
