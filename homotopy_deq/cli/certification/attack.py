"""homotopy-deq attack"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn

from ...certification import ABSTAIN, Cold, LipschitzProver
from ...certification.attack import Attack
from ...certification.falsify import CertificateViolated, attack_certificates, require_consistent
from ...certification.noise import on_grid
from ...certification.statistics import floor_radius
from ...models import ImageModel
from ...settings import Votes
from ..options import ImagesToTest
from ..report import console, counting, errors, fail
from ..trained import Trained
from . import options
from .runs import CertifiedRun, open_runs
from .study import Study
from .votes import Poll


def command(chosen: options.Attack) -> None:
    """Attack certificates, and tell whether one is false."""
    chosen.machine.use()
    certificates, votes = chosen.certificates, chosen.votes
    claimed = _claimed(certificates)
    study, model, vote, sigma = (_proved if claimed.proved else _sampled)(chosen, claimed)
    held = [c for c in claimed.certificates if c.prediction != ABSTAIN]
    if not held:
        raise ValueError(f"{certificates} abstains on every image: there is nothing to attack.")
    picked = sorted(sorted(held, key=lambda c: c.radius)[: chosen.limit], key=lambda c: c.index)
    place = {index: k for k, index in enumerate(study.indices)}
    pixels = study.images([place[c.index] for c in picked])
    with counting("certificates attacked", len(picked)) as advance:
        trials = attack_certificates(
            model,
            pixels if sigma else pixels.double(),
            torch.tensor([c.prediction for c in picked], device=pixels.device),
            [c.radius for c in picked],
            sigma,
            Attack(chosen.attack_steps, chosen.restarts, chosen.draws, chosen.batch, chosen.seed),
            votes=votes,
            vote=vote,
            keys=[c.index for c in picked],
            advance=advance,
        )
    table = Table(title=f"{certificates}: {len(picked)} of {len(held)} certificates attacked")
    for column in ("image", "class", "radius", "attacked at", "votes", "rival", "its votes", ""):
        table.add_column(column, justify="right")
    for trial in trials:
        style = {"violated": "bold red", "undecided": "yellow"}.get(trial.outcome)
        cells = (trial.counts[trial.certified], trial.rival, trial.counts[trial.rival])
        far = [f"{floor_radius(r, 4):.4f}" for r in (trial.radius, trial.distance)]
        table.add_row(
            *map(str, (trial.image, trial.certified, *far, *cells, trial.outcome)), style=style
        )
    console.print(table)
    try:
        require_consistent(trials)
    except CertificateViolated as error:
        fail(str(error), 1)
    said = f" ({votes} votes a point)" if sigma else ""
    errors.print(f"no certificate violated{said}", highlight=False)


class Attacked(NamedTuple):
    """The images, the logits that a search climbs, the class at a point, and the noise if any."""

    study: Study
    model: nn.Module
    vote: Callable[[Tensor], Tensor]
    sigma: float | None


class _Logits(nn.Module):
    """The network's logits, for the search: samples that fail are left to the votes."""

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.solve(images).logits


def _claimed(folder: Path) -> CertifiedRun:
    found = open_runs([folder])
    if len(found) > 1:
        inner = ", ".join(str(each.folder) for each in found)
        raise ValueError(f"{folder} holds several runs: give one of {inner}.")
    return found[0]


def _sampled(chosen: options.Attack, claimed: CertifiedRun) -> Attacked:
    """Return what was certified by votes, or raise ValueError where this is not it."""
    config = claimed.config
    path, policy, images = config["path"], config["policy"], config["images"]
    votes = Votes(
        policy=policy["name"],
        warm_start=claimed.start,
        steps=policy.get("steps"),
        solver=path["solver"],
        rtol=path["rtol"],
        max_steps=path["max_steps"],
    )
    poll = Poll.of(
        Trained.of(chosen.run.path),
        votes,
        ImagesToTest(chosen.place.root, images["count"]),
        skip=images["skip"],
        audit=policy.get("audit"),
        cpu=chosen.machine.cpu,
    )
    study = _same(chosen, claimed, poll.study)
    # The base classifier that the policy certifies, from the model's own start.
    base = replace(poll.policy, start=Cold())
    session = base.prepare(study.model)(study.image(0))

    def vote(noisy: Tensor) -> Tensor:
        images = on_grid(noisy) if claimed.discrete else noisy
        return torch.from_numpy(base.base(session, images))

    return Attacked(study, _Logits(study.model), vote, claimed.sigma)


def _proved(chosen: options.Attack, claimed: CertifiedRun) -> Attacked:
    """Return what was certified by a proof, likewise."""
    if claimed.summary.norm != "l2":
        raise ValueError(
            f"{claimed.folder} has radii in {claimed.summary.norm}, and attacks search l2 balls."
        )
    images = claimed.config["images"]
    of = ImagesToTest(chosen.place.root, images["count"])
    trained = Trained.of(chosen.run.path)
    study = Study.of(trained, of, skip=images["skip"], cpu=chosen.machine.cpu)
    _same(chosen, claimed, study)
    prover = LipschitzProver(study.model.network(), study.model.shape)
    return Attacked(study, prover.network, prover.classes, None)


def _same(chosen: options.Attack, claimed: CertifiedRun, study: Study) -> Study:
    for key, what in (("weights sha256", "other weights"), ("data", "other test images")):
        if study.identity[key] != claimed.config[key]:
            run = chosen.run.path
            raise ValueError(f"{claimed.folder} was certified with {what} than {run} has.")
    return study
