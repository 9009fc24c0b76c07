"""homotopy-deq decide"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from ..certification import Certificate, Smoother
from ..certification.reach import check_radius
from . import certify_options, options
from .certify import default_folder
from .report import console, failing
from .sampling import parts, work
from .study import Choices, Study
from .tables import decided_table


@failing
def command(
    run: options.RunArgument,
    radius: Annotated[
        float,
        typer.Option(metavar="R", help="The l2 radius asked about, in units of images in [0, 1]."),
    ],
    data: options.Data = None,
    limit: options.Limit = None,
    skip: certify_options.Skip = 0,
    sigma: certify_options.Sigmas = None,
    n: certify_options.N = 10_000,
    n0: certify_options.N0 = 100,
    alpha: certify_options.Alpha = 1e-3,
    seed: certify_options.Seed = 0,
    discrete: certify_options.Discrete = False,
    policy: certify_options.PolicyName = None,
    warm_start: certify_options.WarmStart = None,
    steps: certify_options.Steps = None,
    solver: certify_options.Solver = None,
    rtol: options.Rtol = None,
    max_steps: options.MaxSteps = None,
    batch: certify_options.Batch = None,
    deterministic: certify_options.Deterministic = False,
    out: certify_options.Out = None,
    resume: certify_options.Resume = False,
    overwrite: certify_options.Overwrite = False,
    cpu: options.Cpu = False,
    threads: options.Threads = None,
) -> None:
    """Answer for test images whether the class holds within one radius, with few samples.

    Sampling stops as soon as the votes prove the radius ("certified") or make it unlikely that
    they ever will ("futile"), and at the latest after --n ("undecided"). Where the answer is
    clear that takes some hundred samples, while certify draws all to find the largest radius.

    Policies: verified, converged and truncated, whose votes may be judged at any time.
    """
    if not 0 < radius < float("inf"):
        raise ValueError(f"--radius must be above 0; got {radius}.")
    if threads is not None:
        torch.set_num_threads(threads)
    given: dict[str, Any] = locals()
    own = {k: given[k] for k in Choices.__dataclass_fields__ if k in given}
    study = Study.of(Choices(**own, few=True))
    if not study.policy.anytime:
        raise ValueError(
            f"policy {study.name} judges all votes together, so sampling cannot stop early: use "
            "--policy verified, converged or truncated."
        )
    noise = {"n": n, "n0": n0, "alpha": alpha, "seed": seed, "batch": batch}
    exact = {"deterministic": deterministic, "discrete": discrete}
    smoothings = study.smoothings(sigma, **exact, **noise)
    for smoothing in smoothings:
        check_radius(radius, smoothing.noise.deviation, n, alpha)
    folder = out or default_folder(run, f"decide-{study.name}-{radius:g}")

    def answer(smoother: Smoother, image: Tensor, label: int, index: int) -> Certificate:
        return smoother.decide(image, label, index, radius)

    todo = parts(study, smoothings, folder, "decide", radius=radius)
    finished = work(study, todo, answer, resume=resume, overwrite=overwrite)
    if finished is None:
        return
    title = f"{run}, policy {study.name}, radius {radius:g}"
    console.print(decided_table(title, study.policy, finished))
    for each in finished:
        console.print(f"wrote {each.folder}", highlight=False, soft_wrap=True)
