"""homotopy-deq certify"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from ...certification import Certificate, Smoother, Smoothing
from ...certification.reach import check_reach
from ..report import console
from ..trained import Trained, find_checkpoint
from .options import Certify, Sampled
from .sampling import parts, work
from .study import Study
from .tables import certified_table


def command(chosen: Certify) -> None:
    """Certify test images, and tell what was found."""
    run, noise = chosen.run.path, chosen.noise
    study, smoothings = sampled(chosen, audit=chosen.audit)
    check_reach(study.policy, noise.n, noise.alpha)
    folder = chosen.out or default_folder(run, f"certify-{study.name}")

    def answer(smoother: Smoother, image: Tensor, label: int, index: int) -> Certificate:
        return smoother.certify(image, label, index)

    todo = parts(study, smoothings, folder, "certify")
    finished = work(study, todo, answer, **asdict(chosen.begun))
    if finished is None:
        return
    console.print(certified_table(f"{run}, policy {study.name}", study.policy, finished))
    for each in finished:
        console.print(f"wrote {each.folder}", highlight=False, soft_wrap=True)


def sampled(
    chosen: Sampled, *, audit: int | None = None, few: bool = False
) -> tuple[Study, list[Smoothing]]:
    """Load what is to be sampled, and the noise to do it with; see `Study.of`."""
    chosen.machine.use()
    study = Study.of(
        Trained.of(chosen.run.path),
        chosen.votes,
        chosen.images,
        skip=chosen.skip,
        audit=audit,
        cpu=chosen.machine.cpu,
        few=few,
    )
    exact = {"n0": chosen.n0, "deterministic": chosen.deterministic}
    return study, study.smoothings(chosen.noise, chosen.votes.batch, **exact)


def default_folder(run: Path, name: str) -> Path:
    """Return the folder for results about a run: beside its checkpoint."""
    return find_checkpoint(run).parent / name
