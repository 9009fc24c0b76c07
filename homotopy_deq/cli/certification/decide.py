"""homotopy-deq decide"""

from __future__ import annotations

from dataclasses import asdict

from torch import Tensor

from ...certification import Certificate, Smoother
from ...certification.reach import check_radius
from ..report import console
from .certify import default_folder, sampled
from .options import Decide
from .sampling import parts, work
from .tables import decided_table


def command(chosen: Decide) -> None:
    """Decide on one radius for test images, and tell what was found."""
    run, radius, noise = chosen.run.path, chosen.radius, chosen.noise
    study, smoothings = sampled(chosen, few=True)
    if not study.policy.anytime:
        raise ValueError(
            f"policy {study.name} judges all votes together, so sampling cannot stop early: use "
            "--policy verified, converged or truncated."
        )
    for smoothing in smoothings:
        check_radius(radius, smoothing.noise.deviation, noise.n, noise.alpha)
    folder = chosen.out or default_folder(run, f"decide-{study.name}-{radius:g}")

    def answer(smoother: Smoother, image: Tensor, label: int, index: int) -> Certificate:
        return smoother.decide(image, label, index, radius)

    todo = parts(study, smoothings, folder, "decide", radius=radius)
    finished = work(study, todo, answer, **asdict(chosen.begun))
    if finished is None:
        return
    title = f"{run}, policy {study.name}, radius {radius:g}"
    console.print(decided_table(title, study.policy, finished))
    for each in finished:
        console.print(f"wrote {each.folder}", highlight=False, soft_wrap=True)
