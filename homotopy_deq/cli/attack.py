"""homotopy-deq attack"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.table import Table
from torch import Tensor, nn

from ..certification import ABSTAIN, Cold
from ..certification.attack import Attack
from ..certification.falsify import CertificateViolated, attack_certificates, require_consistent
from ..certification.noise import on_grid
from ..certification.statistics import floor_radius
from ..models import ImageModel
from . import options
from .report import console, counting, errors, fail, failing
from .runs import CertifiedRun, open_runs
from .study import Choices, Study


@failing
def command(
    run: options.RunArgument,
    certificates: Annotated[
        Path, typer.Option(metavar="DIR", help="The folder that certify (or decide) wrote.")
    ],
    data: options.Data = None,
    images: Annotated[
        int,
        typer.Option(
            "--limit",
            "--images",
            min=1,
            help="Attack so many certificates, of the smallest radii first.",
        ),
    ] = 20,
    attack_steps: Annotated[int, typer.Option("--attack-steps", help="Steps of an ascent.")] = 20,
    restarts: Annotated[int, typer.Option(help="Ascents an image.")] = 1,
    draws: Annotated[
        int, typer.Option(help="Noise draws that an ascent's gradient is the mean of.")
    ] = 32,
    votes: Annotated[
        int, typer.Option(help="Fresh noise samples that vote at the point found.")
    ] = 1000,
    seed: Annotated[int, typer.Option(help="Of the attack.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Noisy images solved for at a time.")] = 512,
    cpu: options.Cpu = False,
) -> None:
    """Attack the smoothed classifier inside its certified radii. A success is a false certificate.

    Projected gradient ascent looks for a point in each certified ball where the smoothed
    classifier names another class; fresh votes there tell. Exits with 1 if one is found.
    """
    claimed = _claimed(certificates)
    study = _study(run, data, claimed, cpu=cpu)
    held = [c for c in claimed.certificates if c.prediction != ABSTAIN]
    if not held:
        raise ValueError(f"{certificates} abstains on every image: there is nothing to attack.")
    chosen = sorted(sorted(held, key=lambda c: c.radius)[:images], key=lambda c: c.index)
    place = {index: k for k, index in enumerate(study.indices)}
    pixels = torch.stack([study.image(place[c.index]) for c in chosen])
    with counting("certificates attacked", len(chosen)) as advance:
        trials = attack_certificates(
            _Logits(study.model),
            pixels,
            torch.tensor([c.prediction for c in chosen], device=pixels.device),
            [c.radius for c in chosen],
            claimed.sigma,
            Attack(attack_steps, restarts, draws, batch, seed),
            votes=votes,
            vote=_voter(study, pixels[0], claimed),
            keys=[c.index for c in chosen],
            advance=advance,
        )
    table = Table(title=f"{certificates}: {len(chosen)} of {len(held)} certificates attacked")
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
        return torch.from_numpy(policy.base(session, images).labels)

    return vote


def _claimed(folder: Path) -> CertifiedRun:
    found = open_runs([folder])
    if len(found) > 1:
        inner = ", ".join(str(each.folder) for each in found)
        raise ValueError(f"{folder} holds several runs: give one of {inner}.")
    return found[0]


def _study(run: Path, data: Path | None, claimed: CertifiedRun, *, cpu: bool) -> Study:
    """Return what was certified, or raise ValueError where this is not it."""
    config = claimed.config
    path, policy, images = config["path"], config["policy"], config["images"]
    study = Study.of(
        Choices(
            run,
            data,
            limit=images["count"],
            skip=images["skip"],
            solver=path["solver"],
            rtol=path["rtol"],
            max_steps=path["max_steps"],
            policy=policy["name"],
            warm_start=claimed.start,
            steps=policy.get("steps"),
            audit=policy.get("audit"),
            cpu=cpu,
        )
    )
    for key, what in (("weights sha256", "other weights"), ("data", "other test images")):
        if study.identity[key] != config[key]:
            raise ValueError(f"{claimed.folder} was certified with {what} than {run} has.")
    return study
