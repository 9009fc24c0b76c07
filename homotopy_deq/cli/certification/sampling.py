"""Go through the images of a study: resumable, in any number of processes, with a bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from torch import Tensor

from ...certification import Certificate, Journal, Smoother, Smoothing
from ...certification.alone import IMAGES, solved_alone
from ...certification.arithmetic import arithmetic
from ...certification.journal import CONFIG
from ...training import Interrupted
from ...training.folder import locked
from ..report import console, warn
from .study import Study

Answer = Callable[[Smoother, Tensor, int, int], Certificate]
"""Certifies or decides: given the smoother, an image, its label and its index."""


@dataclass(frozen=True)
class Part:
    """The images under one noise.

    Arguments:
        smoothing: the noise.
        journal: where their certificates go.
    """

    smoothing: Smoothing
    journal: Journal


@dataclass(frozen=True)
class Finished:
    """What is done once all images of a part are.

    Arguments:
        smoothing: the noise.
        folder: where the certificates are.
        certificates: in ascending order of the images.
        seconds: of each image.
    """

    smoothing: Smoothing
    folder: Path
    certificates: Sequence[Certificate]
    seconds: dict[int, float]


def parts(
    study: Study, smoothings: Sequence[Smoothing], out: Path, command: str, **asked: Any
) -> list[Part]:
    """Return the folder of each noise: OUT, or where there are several OUT/sigma-0.25, ...

    Arguments:
        command: what is done.
        asked: what else decides the results.
    """
    rank: int = study.processes.process_index
    found = []
    for smoothing in smoothings:
        folder = out / f"sigma-{smoothing.sigma!r}" if len(smoothings) > 1 else out
        config = {
            "command": command,
            **asked,
            **study.identity,
            "smoothing": deciding(smoothing),
            "arithmetic": arithmetic(),
        }
        found.append(Part(smoothing, Journal(folder, config, rank=rank)))
    return found


def deciding(smoothing: Smoothing) -> dict[str, Any]:
    """Return those settings of the noise on which results depend.

    The batch is one of them only unless `deterministic`: a chain of starts goes from batch to
    batch, and for any start another batch may round otherwise, and a vote at a tie tip over.
    """
    found = asdict(smoothing)
    if smoothing.deterministic:
        del found["batch"]
    return found


def work(
    study: Study,
    todo: Sequence[Part],
    answer: Answer,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> list[Finished] | None:
    """Do what is left to do of each part and publish it; None but in the first process.

    The images that no process has done are dealt to the processes in turn.

    Raises:
        FileExistsError, FileNotFoundError, JournalError: before any work, see `Journal.check`.
        Interrupted: by Ctrl-C; what was done is kept.
    """
    processes = study.processes
    # A run of several parts may have been killed before it came to begin the last.
    begun = [(part.journal.folder / CONFIG).exists() for part in todo]
    goes_on = [resume and (old or not any(begun)) for old in begun]
    for part, again in zip(todo, goes_on, strict=True):
        part.journal.check(resume=again, overwrite=overwrite)
    processes.wait_for_everyone()  # none looks at a folder that the first has begun
    with ExitStack() as held:
        if processes.is_main_process:
            for part, again in zip(todo, goes_on, strict=True):
                held.enter_context(locked(part.journal.folder))
                part.journal.begin(resume=again)
                look_alone(study, part)
        processes.wait_for_everyone()
        return _do(study, todo, answer)


def look_alone(study: Study, part: Part) -> None:
    """Solve some noise samples alone, once a run, and warn where they vote otherwise."""
    if study.policy.proven or part.journal.alone() is not None:
        return
    smoother = Smoother(study.model, study.policy, part.smoothing)
    first = range(min(IMAGES, len(study.indices)))
    found = solved_alone(smoother, [(study.image(k), study.indices[k]) for k in first])
    part.journal.note_alone(found)
    if found.disagreements:
        warn(
            f"{found}: this model's answer depends on rounding, as it does between several "
            "equilibria. The certificates are about the network at this batch size; votes of "
            "--policy verified depend on no batch (--contraction, or a monotone model)."
        )


def _do(study: Study, todo: Sequence[Part], answer: Answer) -> list[Finished] | None:
    processes = study.processes
    done = [part.journal.done() for part in todo]
    processes.wait_for_everyone()  # all deal alike
    try:
        for part, ready in zip(todo, done, strict=True):
            left = [k for k, index in enumerate(study.indices) if index not in ready]
            own = left[processes.process_index :: processes.num_processes]
            _each(study, part, own, answer)
    except KeyboardInterrupt:
        count = sum(len(part.journal.done()) for part in todo)
        raise Interrupted(
            f"stopped by Ctrl-C; the {count} of {len(todo) * len(study.indices)} images that are "
            "done are kept."
        ) from None
    processes.wait_for_everyone()
    if not processes.is_main_process:
        return None
    found = []
    for part in todo:
        certificates = part.journal.publish(study.indices)
        seconds = {index: spent for index, (_, spent) in part.journal.done().items()}
        found.append(Finished(part.smoothing, part.journal.folder, certificates, seconds))
    return found


def _each(study: Study, part: Part, places: Sequence[int], answer: Answer) -> None:
    smoothing = part.smoothing
    with Bar(study, smoothing, len(places)) as bar:
        smoother = Smoother(study.model, study.policy, smoothing, bar.sampled)
        for place in places:
            since = time.perf_counter()
            image, label, index = study.image(place), study.labels[place], study.indices[place]
            certificate = answer(smoother, image, label, index)
            part.journal.append(certificate, time.perf_counter() - since)
            bar.finished(certificate)


class Bar:
    """Show images done, their speed and cost, and how many are certified, on a terminal."""

    def __init__(self, study: Study, smoothing: Smoothing, images: int) -> None:
        processes = study.processes
        shown = processes.is_main_process and console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not shown,
            speed_estimate_period=600,
        )
        shared = f", share of 1 of {processes.num_processes}" * (processes.num_processes > 1)
        self._images, self._a_sample = images, 1 / (smoothing.n0 + smoothing.n)
        self._task: TaskID = self._progress.add_task(
            f"sigma {smoothing.sigma:g}{shared}", total=max(images, 1), figures=""
        )
        self._done = self._right = self._evaluations = self._samples = 0
        self._since = time.perf_counter()
        self._n0 = smoothing.n0
        self._part = 0.0

    def __enter__(self) -> Bar:
        self._progress.start()
        self._show()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def sampled(self, samples: int) -> None:
        """Be told of a batch of noise samples."""
        self._part = min(1.0, self._part + samples * self._a_sample)
        self._progress.update(self._task, completed=self._done + self._part)

    def finished(self, certificate: Certificate) -> None:
        """Be told of an image."""
        self._done, self._part = self._done + 1, 0.0
        self._right += certificate.correct
        self._evaluations += certificate.evaluations
        self._samples += certificate.evidence.samples + self._n0
        self._show()

    def _show(self) -> None:
        rate = self._done / max(time.perf_counter() - self._since, 1e-9)
        cost = self._evaluations / max(self._samples, 1)
        figures = (
            f"{self._done}/{self._images} images  {rate:.2g} images/s  "
            f"{cost:.1f} evaluations/sample  {self._right} certified"
        )
        self._progress.update(self._task, completed=self._done, figures=figures)
