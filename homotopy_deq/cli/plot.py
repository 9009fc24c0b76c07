"""homotopy-deq plot"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from .. import plotting
from ..data import stratified_order
from ..training import load_checkpoint
from ..training.folder import require_writable
from . import options
from .names import pick
from .paths import branches, trajectory
from .report import console, failing
from .spec import find_checkpoint, rebuild, spec_of

KINDS = ("paths", "residuals", "training", "branch")
DEFAULT = KINDS[:3]  # a branch takes longer, and is asked for
EQUILIBRIUM = ("rk4", "dopri5", "anderson", "newton-krylov", "continuation", "steady-state")
FLOW = ("dopri5", "rk4", "euler")


@failing
def command(
    run: options.RunArgument,
    kind: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="paths (of z, in the plane of its principal components), residuals (against "
            "evaluations), training (curves) or branch (of roots of z = lambda f(z), lambda from 0 "
            "to 1); once or more. Default: all but branch."
        ),
    ] = None,
    solver: options.Solvers = None,
    samples: Annotated[int, typer.Option(min=1, help="Images whose paths are drawn.")] = 5,
    batch: Annotated[int, typer.Option(min=1, help="Images that the residuals are of.")] = 64,
    data: options.Data = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(metavar="DIR", help="Folder for the PNG files. Default: RUN/plots."),
    ] = None,
) -> None:
    """Draw a trained model's paths, residuals and training curves as PNG files."""
    kinds = [pick("kind", name, KINDS) for name in kind or DEFAULT]
    file = find_checkpoint(run)
    checkpoint = load_checkpoint(file)
    spec, model = spec_of(checkpoint), rebuild(checkpoint)
    rests = model.layer.rest_point
    chosen_passes = solver or (EQUILIBRIUM if rests else FLOW)
    passes = {name: spec.path_by(name).put(model) for name in chosen_passes}
    folder = out or file.parent / "plots"
    require_writable(folder)
    if "residuals" in kinds and not rests:
        kinds.remove("residuals")
        console.print("No residuals: this model's flow has no equilibrium.", highlight=False)
    if "branch" in kinds and not rests:
        kinds.remove("branch")
        console.print("No branch: this model's flow has no equilibrium.", highlight=False)
    if "training" in kinds and not checkpoint.meta["history"]:
        kinds.remove("training")
        console.print("No training curves: no epoch is done yet.", highlight=False)
    if "training" in kinds:
        _say(plotting.save(plotting.training_figure(checkpoint.meta["history"], spec.path.success),
                           folder / "training.png"))  # fmt: skip
    if not {"paths", "residuals", "branch"} & set(kinds):
        return
    images = spec.data(data)
    chosen = stratified_order(images.test_labels, spec.seed)[: max(samples, batch)]
    pixels = images.test_images[chosen].float() / 255
    if "paths" in kinds:
        states = {name: trajectory(each, pixels[:samples]).z for name, each in passes.items()}
        names = [images.classes[k] for k in images.test_labels[chosen[:samples]].tolist()]
        _say(plotting.save(plotting.path_figure(states, names), folder / "paths.png"))
    if "residuals" in kinds:
        paths = {name: trajectory(each, pixels[:batch]) for name, each in passes.items()}
        rtol = spec.rtol if spec.rtol is not None else 1e-4
        _say(plotting.save(plotting.residual_figure(paths, rtol), folder / "residuals.png"))
    if "branch" in kinds:
        names = [images.classes[k] for k in images.test_labels[chosen[:samples]].tolist()]
        _say(plotting.save(branches(model, pixels[:samples], names), folder / "branch.png"))


def _say(path: Path) -> None:
    console.print(f"wrote {path}", highlight=False)
