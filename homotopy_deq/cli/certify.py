"""homotopy-deq certify"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..certification import Certificate, Smoother
from ..certification.reach import check_reach
from . import certify_options, options
from .report import console, failing
from .sampling import parts, work
from .spec import find_checkpoint
from .study import Choices, Study
from .tables import certified_table


@failing
def command(
    run: options.RunArgument,
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
    audit: certify_options.Audit = None,
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
    """Certify test images: the class of the smoothed classifier, and an l2 radius within which
    no change of the image changes it.

    Noise is added to each image --n times, and the votes prove a lower bound on the probability
    of the class (Cohen, Rosenfeld & Kolter 2019). DIR/certificates.tsv and .jsonl hold a line an
    image: idx, label, predict (-1: abstains), radius, correct, evals.

    Several processes: torchrun --nproc-per-node N -m homotopy_deq.cli certify RUN --samples 10000
    """
    if threads is not None:
        torch.set_num_threads(threads)
    given: dict[str, Any] = locals()
    own = {k: given[k] for k in Choices.__dataclass_fields__ if k in given}
    study = Study.of(Choices(**own))
    noise = {"n": n, "n0": n0, "alpha": alpha, "seed": seed, "batch": batch}
    exact = {"deterministic": deterministic, "discrete": discrete}
    smoothings = study.smoothings(sigma, **exact, **noise)
    check_reach(study.policy, n, alpha)
    folder = out or default_folder(run, f"certify-{study.name}")

    def answer(smoother: Smoother, image: Tensor, label: int, index: int) -> Certificate:
        return smoother.certify(image, label, index)

    todo = parts(study, smoothings, folder, "certify")
    finished = work(study, todo, answer, resume=resume, overwrite=overwrite)
    if finished is None:
        return
    console.print(certified_table(f"{run}, policy {study.name}", study.policy, finished))
    for each in finished:
        console.print(f"wrote {each.folder}", highlight=False, soft_wrap=True)


def default_folder(run: Path, name: str) -> Path:
    """Return the folder for results about a run: beside its checkpoint."""
    return find_checkpoint(run).parent / name
