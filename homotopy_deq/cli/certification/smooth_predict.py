"""homotopy-deq smooth-predict"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ...certification import ABSTAIN, Smoother
from ...data import ImageData, read_images
from ..report import console
from ..trained import Trained
from .options import SmoothPredict
from .votes import Poll


def command(chosen: SmoothPredict) -> None:
    """Predict by the smoothed classifier, and print it."""
    chosen.machine.use()
    trained, files, given = Trained.of(chosen.run.path), chosen.files, chosen.noise
    poll = Poll.of(
        trained,
        chosen.votes,
        replace(chosen.images, limit=None) if files else chosen.images,
        cpu=chosen.machine.cpu,
        data=_files(trained, files) if files else None,
    )
    study = poll.study
    if not poll.policy.anytime:
        raise ValueError(
            f"policy {poll.name} audits the votes for one class, which certify selects "
            "beforehand: use --policy verified, converged or truncated."
        )
    smoothings = poll.smoothings(given, chosen.votes.batch, n0=1)
    for smoothing in smoothings:
        smoothing.check_majority()
    classes = trained.classes
    rows: list[dict[str, Any]] = []
    for smoothing in smoothings:
        smoother = Smoother(study.model, poll.policy, smoothing)
        for place in sorted(range(len(study.indices)), key=study.indices.__getitem__):
            index = study.indices[place]
            image = study.image(place)
            found, counts = smoother.predict(image, index)
            rows.append(
                {
                    "image": str(files[index]) if files else index,
                    "sigma": smoothing.sigma,
                    "class": None if found == ABSTAIN else classes[found],
                    "label": None if files else classes[study.labels[place]],
                    "counts": dict(zip(classes, counts.tolist(), strict=True)),
                    "undecided": given.n - int(counts.sum()),
                }
            )
    if chosen.json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("image", "sigma", "class", "label", "votes", "undecided")
    for row in rows:
        ranked = sorted(row["counts"].items(), key=lambda entry: -entry[1])
        votes = ", ".join(f"{name} {count}" for name, count in ranked[:3] if count)
        told = (row["class"] or "abstains", row["label"] or "-", votes, str(row["undecided"]))
        table.add_row(str(row["image"]), f"{row['sigma']:g}", *told)
    console.print(table)


def _files(trained: Trained, files: list[Path]) -> ImageData:
    """Return image files as test images without a true class."""
    channels, height, width = trained.model.shape
    pixels = read_images(files, (channels, height, width))
    labels = torch.zeros(len(files), dtype=torch.int64)
    return ImageData("files", pixels, labels, pixels, labels, tuple(trained.classes))
