"""homotopy-deq finetune"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from solvers import PeacemanRachford

from ..lipschitz import certify_lipschitz
from ..models import ExplicitNetwork, LBENNetwork
from ..models.lipschitz import STEP
from ..settings import ForwardPass, Settings
from ..settings.declare import assemble, pick
from ..training import check_folder
from .options import Finetune, Tuning
from .resolve import BF16_RTOL, images_of, put
from .train import Work, resume, say
from .trained import Trained, find_checkpoint

FORMS = ("lben",)
CHECKED = 256
"""Images on which the maps are compared."""
SAME = 1e-9
"""Largest difference of logits, in double precision, that is rounding: they are of size 1."""


def command(chosen: Finetune) -> None:
    """Make equilibria of a trained explicit network, and train them in a folder of their own."""
    begun = chosen.begun
    pick("form", chosen.form, FORMS)
    run = find_checkpoint(chosen.run.path).resolve().parent
    folder = chosen.out or run.with_name(f"{run.name}-{chosen.form}")
    check_folder(folder, resume=begun.resume, overwrite=begun.overwrite)
    chosen.machine.use()
    given: dict[str, Any] = {"data": chosen.place.root, **chosen.tuning}
    if begun.resume:
        about = Trained.of(folder).checkpoint.meta["about"]
        source = about.get("made_from", {}).get("run")
        if source != str(run):
            made = "by training alone" if source is None else f"from {source}"
            raise ValueError(f"{folder} was made {made}, not from {run}: train --resume takes any.")
        resume(folder, given, chosen.machine)
        return
    trained = Trained.of(chosen.run.path)
    explicit = trained.model
    if not isinstance(explicit, ExplicitNetwork):
        raise ValueError(
            f"{run} is a {trained.settings.model.name}, and only explicit networks (cpl, sll, aol, "
            "sandwich) are made into equilibria."
        )
    settings = _settings(trained.settings, chosen.tuning)
    images = images_of(settings, chosen.place.root)
    lben = explicit.to_lben()
    say(_checked(explicit, lben, images.test_images[:CHECKED].double() / 255))
    about = {"made_from": {"run": str(run), "model": trained.settings.model.name}}
    network = put(lben, settings).train()
    Work(network, settings, images, folder, about).do(chosen.machine, begun)


def _settings(of: Settings, given: Mapping[str, Any]) -> Settings:
    """Return a run's settings with those of the fine-tuning in their places."""
    tuning = asdict(assemble(Tuning, given))
    training = replace(of.training, **tuning, schedule="cosine", final_lr=0.0)
    rtol = BF16_RTOL if training.precision == "bf16" else None
    forward = ForwardPass(solver="peaceman-rachford", step_size=STEP, rtol=rtol)
    return replace(of, model=replace(of.model, name="lben"), forward=forward, training=training)


@torch.no_grad()
def _checked(explicit: ExplicitNetwork, lben: LBENNetwork, images: Tensor) -> str:
    """Return what is proved of the equilibria before they are trained.

    Raises:
        ValueError: the logits differ by more than rounding, or nothing is proved.
    """
    one = copy.deepcopy(explicit).double()
    exact = PeacemanRachford(step_size=STEP, rtol=1e-12)
    gap = float((one(images) - one.to_lben().with_solver(exact)(images)).abs().max())
    if not gap <= SAME:
        raise ValueError(f"the equilibria's logits differ from the network's by {gap:.2g}.")
    least = min(part.lmi()[1] for part in lben.layer.implicit)
    bound = certify_lipschitz(lben.network()[:-1]).value
    return (
        f"{len(lben.layer.implicit)} equilibria with the network's logits to {gap:.1e}; the least "
        f"eigenvalue of their inequalities is {least:.1e}, the Lipschitz constant before the head "
        f"{bound:.6g}"
    )
