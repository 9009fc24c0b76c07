"""homotopy-deq smooth-predict"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import torch
import typer
from rich.table import Table

from ..certification import ABSTAIN, Smoother
from ..certification.reach import check_majority
from ..data import ImageData, read_images
from ..training import load_checkpoint
from . import certify_options, options
from .report import console, failing
from .spec import find_checkpoint, rebuild
from .study import Choices, Study

SHOWN = 10


@failing
def command(
    run: options.RunArgument,
    images: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(metavar="IMAGE...", help="PNG or JPEG files. Default: test images."),
    ] = None,
    data: options.Data = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Use so many test images, each class in its share.")
    ] = SHOWN,
    sigma: certify_options.Sigmas = None,
    n: certify_options.N = 1000,
    alpha: Annotated[
        float, typer.Option(help="Probability, at most, of a class that is not the smoothed one.")
    ] = 1e-3,
    seed: certify_options.Seed = 0,
    discrete: certify_options.Discrete = False,
    policy: certify_options.PolicyName = None,
    warm_start: certify_options.WarmStart = None,
    steps: certify_options.Steps = None,
    solver: certify_options.Solver = None,
    rtol: options.Rtol = None,
    max_steps: options.MaxSteps = None,
    batch: certify_options.Batch = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    cpu: options.Cpu = False,
    threads: options.Threads = None,
) -> None:
    """Predict by the smoothed classifier: the class that most noisy copies vote for, or abstain.

    It abstains where the votes do not tell the first two classes apart at level --alpha; votes
    that are undecided count for the second. Policies: verified, converged and truncated.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    given: dict[str, Any] = locals() | {"limit": None if images else limit}
    own = {k: given[k] for k in Choices.__dataclass_fields__ if k in given}
    study = Study.of(Choices(**own), _files(run, images) if images else None)
    if not study.policy.anytime:
        raise ValueError(
            f"policy {study.name} audits the votes for one class, which certify selects "
            "beforehand: use --policy verified, converged or truncated."
        )
    noise = {"n": n, "n0": 1, "alpha": alpha, "seed": seed, "batch": batch}
    smoothings = study.smoothings(sigma, discrete=discrete, **noise)
    check_majority(n, alpha)
    classes = load_checkpoint(find_checkpoint(run)).meta["about"]["classes"]
    rows: list[dict[str, Any]] = []
    for smoothing in smoothings:
        smoother = Smoother(study.model, study.policy, smoothing)
        for place in sorted(range(len(study.indices)), key=study.indices.__getitem__):
            index = study.indices[place]
            image = study.image(place)
            found, counts = smoother.predict(image, index)
            rows.append(
                {
                    "image": str(images[index]) if images else index,
                    "sigma": smoothing.sigma,
                    "class": None if found == ABSTAIN else classes[found],
                    "label": None if images else classes[study.labels[place]],
                    "counts": dict(zip(classes, counts.tolist(), strict=True)),
                    "undecided": n - int(counts.sum()),
                }
            )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("image", "sigma", "class", "label", "votes", "undecided")
    for row in rows:
        ranked = sorted(row["counts"].items(), key=lambda entry: -entry[1])
        votes = ", ".join(f"{name} {count}" for name, count in ranked[:3] if count)
        told = (row["class"] or "abstains", row["label"] or "-", votes, str(row["undecided"]))
        table.add_row(str(row["image"]), f"{row['sigma']:g}", *told)
    console.print(table)


def _files(run: Path, images: list[Path]) -> ImageData:
    """Return image files as test images without a true class."""
    checkpoint = load_checkpoint(find_checkpoint(run))
    channels, height, width = rebuild(checkpoint).shape
    pixels = read_images(images, (channels, height, width))
    labels = torch.zeros(len(images), dtype=torch.int64)
    classes = tuple(checkpoint.meta["about"]["classes"])
    return ImageData("files", pixels, labels, pixels, labels, classes)
