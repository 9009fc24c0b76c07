"""homotopy-deq profile"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.table import Table
from torch import Tensor

from ... import plotting
from ...acceleration.convergence import Convergence
from ...acceleration.profile import Profile, profile
from ...training.checkpoint import replace_file
from ...training.folder import require_writable
from .. import options
from ..report import console, residual
from ..resolve import first_images
from ..trained import Trained, find_checkpoint

SHARES = (0.1, 0.5, 0.9, 1.0)


def command(chosen: options.Profile) -> None:
    """Say which coordinates, channels and samples converge when, and what that could save."""
    trained = Trained.of(chosen.run.path)
    folder = chosen.out or find_checkpoint(chosen.run.path).parent / "plots"
    require_writable(folder)
    if chosen.json is not None:
        require_writable(chosen.json.parent)
    chosen.machine.use()
    device = chosen.machine.device()
    images = first_images(trained.settings, chosen.place.root, chosen.samples)
    found = profile(
        trained.model.to(device),
        images.to(device),
        rtol=chosen.rtol,
        iterations=chosen.iterations,
        repeats=chosen.repeats,
        compiled=not chosen.skip_compiled,
    )
    console.print(_rests(found))
    console.print(_ways(found, chosen.rtol))
    for name, why in found.failed.items():
        console.print(f"{name} was not measured: {why}", highlight=False, markup=False)
    if chosen.json is not None:
        replace_file(chosen.json, (json.dumps(_figures(found), indent=2) + "\n").encode())
    moving = found.convergence.moving().tolist()
    figure = plotting.convergence_figure(
        {"all samples": (range(len(moving)), moving)},
        {"iterations until at rest": _map(found.convergence)},
        saved=found.saved(),
    )
    path = plotting.save(figure, folder / "profile.png")
    console.print(f"wrote {path}", highlight=False)


def _grouped(convergence: Convergence) -> dict[str, Tensor]:
    """Return the steps until rest of coordinates, of channels on average, and of whole samples."""
    steps = convergence.steps.double().cpu()
    flat = steps.flatten(1)
    groups = {"coordinates": flat.flatten()}
    if steps.dim() > 2:
        groups["channels (mean)"] = steps.transpose(0, 1).flatten(1).mean(1)
    return {**groups, "samples (last coordinate)": flat.amax(1)}


def _map(convergence: Convergence) -> Tensor:
    """Return the mean steps of a pixel, (H, W), or those of the first samples' numbers, (B, n)."""
    steps = convergence.steps.double().cpu()
    return steps.mean((0, 1)) if steps.dim() == 4 else steps.flatten(1)[:64]


def _quantiles(steps: Tensor) -> list[float]:
    ordered = steps.sort().values  # torch.quantile takes no more than 2^24 numbers
    return [float(ordered[round(share * (len(ordered) - 1))]) for share in SHARES]


def _rests(found: Profile) -> Table:
    convergence = found.convergence
    damped = "" if found.damping == 1 else f", damped by {found.damping:g},"
    table = Table(title=f"Iterations{damped} until at rest within {found.tolerance:.1e}")
    table.add_column(f"of {found.samples} samples")
    for share in SHARES:
        table.add_column(f"{share:.0%} by", justify="right")
    for name, steps in _grouped(convergence).items():
        table.add_row(name, *(f"{value:.0f}" for value in _quantiles(steps)))
    return table


def _ways(found: Profile, rtol: float) -> Table:
    table = Table(title=f"Solving to a relative residual of {rtol:g}", padding=(0, 1, 0, 0))
    table.add_column("way", no_wrap=True)
    # The heads may wrap, at 80 columns: a figure that is cut says something else.
    heads = ("ms", "time", "evals", "multiply adds", "worst residual", "solved", "agrees")
    for column, widest in zip(heads, (7, 4, 5, 9, 8, 6, 6), strict=True):
        table.add_column(column, justify="right", min_width=widest)
    saved = found.saved()
    for name, way in found.ways.items():
        table.add_row(
            name,
            f"{1e3 * way.seconds:.1f}",
            f"{saved[name]['time']:.0%}",
            f"{way.evaluations:.1f}",
            _share(saved[name]["multiply-adds"]),
            residual(way.residual),
            f"{way.solved:.0%}",
            f"{way.agrees:.1%}",
        )
    return table


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.0%}"


def _known(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Put null for what is not known: NaN is no JSON."""
    return {name: None if value != value else value for name, value in figures.items()}


def _figures(found: Profile) -> dict[str, Any]:
    grouped = _grouped(found.convergence)
    return {
        "samples": found.samples,
        "damping": found.damping,
        "tolerance": found.tolerance,
        "iterations until at rest, quantiles 10/50/90/100%": {
            name: _quantiles(steps) for name, steps in grouped.items()
        },
        "share that moves": found.convergence.moving().tolist(),
        "ways": {name: _known(asdict(way)) for name, way in found.ways.items()},
        "in parts of the first": {name: _known(each) for name, each in found.saved().items()},
        "not measured": dict(found.failed),
    }
