"""Figures of gradient flow, from what `FlowStudy` found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .style import COLORS, canvas, colors, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = Mapping[str, Any]


def flow_figures(found: Found) -> dict[str, Figure]:
    """Draw what `FlowStudy` found: the sphere, descent and backward passes, and the training."""
    return {
        "sphere": sphere_figure(found["sphere"]),
        "descent": descent_figure(found),
        "training": index_figure(found["training"]),
    }


def sphere_figure(sphere: Found) -> Figure:
    """Draw the linear flow: paths on their circles, the loss under its envelope, and how far th2
    stays from 1."""
    figure = canvas(9.6, 3.4)
    plane, loss, apart = figure.subplots(1, 3)
    xi, times, paths = sphere["xi"], sphere["times"], sphere["paths"]
    turn = [2 * math.pi * k / 200 for k in range(201)]
    for color, path in zip(colors(len(paths)), paths, strict=True):
        x, y = zip(*path["theta"], strict=True)
        c = math.sqrt(path["c2"][0])
        circle = [c * math.cos(a) for a in turn], [1 + c * math.sin(a) for a in turn]
        plane.plot(*circle, color=color, linewidth=0.6, alpha=0.5)
        plane.plot(x, y, color=color, linewidth=2)
        plane.plot(x[:1], y[:1], "o", color=color, markersize=4)
        plane.plot(x[-1:], y[-1:], "*", color=color, markersize=9)
        loss.plot(times, path["risk"], color=color, linewidth=1.6)
        loss.plot(times, path["envelope"], ":", color=color, linewidth=1.2)
        apart.plot(times, path["distance"], color=color, linewidth=1.6)
        apart.axhline(path["least distance"], color=color, linestyle=":", linewidth=1.2)
    plane.plot([xi * 4, -xi * 4], [-3, 5], color="0.4", linewidth=1, label="solutions")
    plane.plot([0], [1], "x", color="black", label="singular point")
    plane.set(xlim=(-2.6, 2.6), ylim=(-1.6, 3.6), xlabel="$\\theta_1$", ylabel="$\\theta_2$")
    plane.set_aspect("equal")
    plane.set_title("paths on their circles", fontsize=9)
    plane.legend(frameon=False, fontsize=7, loc="upper right")
    loss.set(yscale="log", ylim=(1e-16, 30), xlabel="time")
    loss.set_title("risk; dotted: $L(0)e^{-4\\lambda_{min}t/C^2}$", fontsize=9)
    apart.set(yscale="log", xlabel="time")
    apart.set_title("$|1-\\theta_2|$; dotted: its lower bound", fontsize=9)
    for axes in (plane, loss, apart):
        plain(axes)
    return figure


def descent_figure(found: Found) -> Figure:
    """Draw what descent adds to C^2, the stable step size from both sides, and truncated backward
    passes."""
    figure = canvas(9.6, 3.4)
    drift, step, back = figure.subplots(1, 3)
    runs = found["drift"]["descent"]
    for color, (eta, run) in zip(COLORS, runs.items(), strict=False):
        drift.plot(run["times"][1:], run["c2 - c2(0)"][1:], color=color, label=f"$\\eta$ = {eta}")
    tanh = found["drift"]["tanh"]
    drift.plot(tanh["times"][1:], tanh["c2 - c2(0)"][1:], "--", color="0.4", label="tanh, flow")
    drift.set(yscale="log", xlabel="time", ylim=(1e-4, 0.2))
    drift.set_title("$C^2 - C^2(0)$", fontsize=9)
    for color, (share, risk) in zip(COLORS, found["step_size"]["risk"].items(), strict=False):
        step.plot(risk, color=color, label=f"{share} of the bound")
    step.set(yscale="log", xlabel="step", ylim=(1e-32, 1e2))
    step.set_title("risk from near a solution", fontsize=9)
    for color, (name, run) in zip(COLORS, found["backward"].items(), strict=False):
        risk = [max(each, 1e-32) for each in run["risk"]]
        back.plot(run["steps"], risk, color=color, label=name, linewidth=1.6)
    back.set(yscale="log", xlabel="step")
    back.set_title("risk by backward pass", fontsize=9)
    for axes in (drift, step, back):
        plain(axes)
        axes.legend(frameon=False, fontsize=7, loc="best" if axes is back else "lower right")
    return figure


def index_figure(training: Found) -> Figure:
    """Draw train and test risk, and the distance of theta from (xi, 0), or from the line of
    solutions of a linear model; one panel a model, with its explicit peer."""
    columns = 3
    rows = -(-len(training) // columns)
    figure = canvas(3.2 * columns, 2.3 * rows)
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, runs) in zip(panels, training.items(), strict=False):
        for color, (peer, run) in zip(COLORS, runs.items(), strict=False):
            for curve, style in (("train", "-"), ("test", ":"), ("distance", "--")):
                values = [max(v, 1e-17) for v in run[curve]]
                axes.plot(
                    values, style, color=color, linewidth=1.4,
                    label=f"{peer}, {curve}{' risk' * (curve != 'distance')}",
                )  # fmt: skip
        axes.set_title(name, fontsize=9)
        axes.set_yscale("log")
        plain(axes)
    for axes in panels[len(training) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False, fontsize=8)
    figure.supxlabel("epoch", fontsize=9)
    figure.supylabel("risk; distance from the target", fontsize=9)
    return figure
