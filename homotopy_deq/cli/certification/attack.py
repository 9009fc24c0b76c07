"""homotopy-deq attack"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from rich.table import Table
from torch import Tensor, nn

from ...certification import ABSTAIN, Cold
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


def command(chosen: options.Attack) -> None:
    """Attack certificates, and tell whether one is false."""
    chosen.machine.use()
    certificates, votes = chosen.certificates, chosen.votes
    claimed = _claimed(certificates)
    study = _study(chosen, claimed)
    held = [c for c in claimed.certificates if c.prediction != ABSTAIN]
    if not held:
        raise ValueError(f"{certificates} abstains on every image: there is nothing to attack.")
    picked = sorted(sorted(held, key=lambda c: c.radius)[: chosen.limit], key=lambda c: c.index)
    place = {index: k for k, index in enumerate(study.indices)}
    pixels = torch.stack([study.image(place[c.index]) for c in picked])
    with counting("certificates attacked", len(picked)) as advance:
        trials = attack_certificates(
            _Logits(study.model),
            pixels,
            torch.tensor([c.prediction for c in picked], device=pixels.device),
            [c.radius for c in picked],
            claimed.sigma,
            Attack(chosen.attack_steps, chosen.restarts, chosen.draws, chosen.batch, chosen.seed),
            votes=votes,
            vote=_voter(study, pixels[0], claimed),
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
    errors.print(f"no certificate violated ({votes} votes a point)", highlight=False)


class _Logits(nn.Module):
    """The network's logits, for the search: samples that fail are left to the votes."""

    def __init__(self, model: ImageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.solve(images).logits


def _voter(study: Study, image: Tensor, claimed: CertifiedRun) -> Callable[[Tensor], Tensor]:
    """Return the base classifier that the policy certifies, from the model's own start."""
    policy = replace(study.policy, start=Cold())
    session = policy.prepare(study.model)(image)

    def vote(noisy: Tensor) -> Tensor:
        images = on_grid(noisy) if claimed.discrete else noisy
        return torch.from_numpy(policy.base(session, images))

    return vote


def _claimed(folder: Path) -> CertifiedRun:
    found = open_runs([folder])
    if len(found) > 1:
        inner = ", ".join(str(each.folder) for each in found)
        raise ValueError(f"{folder} holds several runs: give one of {inner}.")
    return found[0]


def _study(chosen: options.Attack, claimed: CertifiedRun) -> Study:
    """Return what was certified, or raise ValueError where this is not it."""
    config, run = claimed.config, chosen.run.path
    path, policy, images = config["path"], config["policy"], config["images"]
    votes = Votes(
        policy=policy["name"],
        warm_start=claimed.start,
        steps=policy.get("steps"),
        solver=path["solver"],
        rtol=path["rtol"],
        max_steps=path["max_steps"],
    )
    study = Study.of(
        Trained.of(run),
        votes,
        ImagesToTest(chosen.place.root, images["count"]),
        skip=images["skip"],
        audit=policy.get("audit"),
        cpu=chosen.machine.cpu,
    )
    for key, what in (("weights sha256", "other weights"), ("data", "other test images")):
        if study.identity[key] != config[key]:
            raise ValueError(f"{claimed.folder} was certified with {what} than {run} has.")
    return study
