"""homotopy-deq plot"""

from __future__ import annotations

from pathlib import Path

from ... import plotting
from ...data import stratified_order
from ...page import trajectory
from ...settings.declare import pick
from ...training.folder import require_writable
from .. import options
from ..report import console
from ..resolve import images_of, pass_of
from ..trained import Trained, find_checkpoint
from .collapse import draw_collapse
from .paths import branches

KINDS = ("paths", "residuals", "training", "branch", "collapse")
DEFAULT = KINDS[:3]  # a branch takes longer, and is asked for, as is what few runs measure
EQUILIBRIUM = ("rk4", "dopri5", "anderson", "newton-krylov", "continuation", "steady-state")
FLOW = ("dopri5", "rk4", "euler")


def command(chosen: options.Plot) -> None:
    """Draw a trained model's paths, residuals and training curves."""
    samples, batch = chosen.samples, chosen.batch
    kinds = [pick("kind", name, KINDS) for name in chosen.kind or DEFAULT]
    trained = Trained.of(chosen.run.path)
    settings, model, history = trained.settings, trained.model, trained.checkpoint.meta["history"]
    rests = model.layer.rest_point
    if not model.layer.one_equation:
        apart = {"paths", "residuals", "branch"} & set(kinds)
        kinds = [kind for kind in kinds if kind not in apart]
        if apart:
            told = f"No {', '.join(sorted(apart))}: a stack of layers has no one path."
            console.print(told, highlight=False)
    names = list(chosen.solvers.names or (EQUILIBRIUM if rests else FLOW))
    names = names if {"paths", "residuals", "branch"} & set(kinds) else []
    passes = {name: pass_of(settings, name).put(model) for name in names}
    folder = chosen.out or find_checkpoint(chosen.run.path).parent / "plots"
    require_writable(folder)
    if "residuals" in kinds and not rests:
        kinds.remove("residuals")
        console.print("No residuals: this model's flow has no equilibrium.", highlight=False)
    if "branch" in kinds and not rests:
        kinds.remove("branch")
        console.print("No branch: this model's flow has no equilibrium.", highlight=False)
    if "training" in kinds and not history:
        kinds.remove("training")
        console.print("No training curves: no epoch is done yet.", highlight=False)
    if "training" in kinds:
        _say(plotting.save(plotting.training_figure(history, pass_of(settings).success),
                           folder / "training.png"))  # fmt: skip
    if "collapse" in kinds:
        drawn = draw_collapse(find_checkpoint(chosen.run.path).parent, folder)
        if drawn is None:
            raise ValueError(
                "no neural collapse was measured in this run: train with --track neural-collapse."
            )
        _say(drawn)
    if not {"paths", "residuals", "branch"} & set(kinds):
        return
    images = images_of(settings, chosen.place.root)
    order = stratified_order(images.test_labels, settings.training.seed)[: max(samples, batch)]
    pixels = images.test_images[order].float() / 255
    if "paths" in kinds:
        states = {name: trajectory(each, pixels[:samples]).z for name, each in passes.items()}
        names = [images.classes[k] for k in images.test_labels[order[:samples]].tolist()]
        _say(plotting.save(plotting.path_figure(states, names), folder / "paths.png"))
    if "residuals" in kinds:
        paths = {name: trajectory(each, pixels[:batch]) for name, each in passes.items()}
        rtol = settings.forward.rtol or 1e-4
        _say(plotting.save(plotting.residual_figure(paths, rtol), folder / "residuals.png"))
    if "branch" in kinds:
        names = [images.classes[k] for k in images.test_labels[order[:samples]].tolist()]
        _say(plotting.save(branches(model, pixels[:samples], names), folder / "branch.png"))


def _say(path: Path) -> None:
    console.print(f"wrote {path}", highlight=False)
