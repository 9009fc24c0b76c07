"""Go through the images of a study: resumable, in any number of processes, with a bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ...certification import Certificate, Journal, Smoothing
from ...certification.journal import CONFIG
from ...training import Interrupted
from ...training.folder import locked
from ..report import console
from .study import Study

Answer = Callable[[Sequence[int]], Iterable[Certificate]]
"""Certifies the images at some places of a study, and gives each certificate as it is reached."""


@dataclass(frozen=True)
class Part:
    """The images of a study, certified in one way.

    Arguments:
        study: the images.
        journal: where their certificates go.
        look: looks at some images once a run, before the first is certified.
        begin: returns what certifies images; told what to tell of noise samples that are done.
        smoothing: the noise, or None.
        together: images that are certified at a time.
    """

    study: Study
    journal: Journal
    look: Callable[[], None]
    begin: Callable[[Callable[[int], None]], Answer]
    smoothing: Smoothing | None = None
    together: int = 1

    @property
    def name(self) -> str:
        """What heads its column in a table."""
        bound = self.journal.config.get("bound")
        return bound if self.smoothing is None else f"sigma {self.smoothing.sigma:g}"

    @property
    def selecting(self) -> int:
        """How many noise samples select the class of an image."""
        return 0 if self.smoothing is None else self.smoothing.n0


@dataclass(frozen=True)
class Finished:
    """What is done once all images of a part are.

    Arguments:
        part: how.
        certificates: in ascending order of the images.
        seconds: of each image, since the certificate before it.
    """

    part: Part
    certificates: Sequence[Certificate]
    seconds: dict[int, float]


def work(
    todo: Sequence[Part], *, resume: bool = False, overwrite: bool = False
) -> list[Finished] | None:
    """Do what is left to do of each part and publish it; None but in the first process.

    The images that no process has done are dealt to the processes in turn.

    Raises:
        FileExistsError, FileNotFoundError, JournalError: before any work, see `Journal.check`.
        Interrupted: by Ctrl-C; what was done is kept.
    """
    processes = todo[0].study.processes
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
                part.journal.begin(resume=again, overwrite=overwrite)
                part.look()
        processes.wait_for_everyone()
        return _do(todo, processes)


def _do(todo: Sequence[Part], processes: Any) -> list[Finished] | None:
    done = [part.journal.done() for part in todo]
    processes.wait_for_everyone()  # all deal alike
    try:
        for part, ready in zip(todo, done, strict=True):
            left = [k for k, index in enumerate(part.study.indices) if index not in ready]
            # Images that are certified together are so whoever goes on: bytes may depend on it.
            blocks = sorted({k // part.together for k in left})
            own = blocks[processes.process_index :: processes.num_processes]
            _each(part, own, {part.study.indices[k] for k in left if k // part.together in own})
    except KeyboardInterrupt:
        count = sum(len(part.journal.done()) for part in todo)
        raise Interrupted(
            f"stopped by Ctrl-C; the {count} of {sum(len(p.study.indices) for p in todo)} images "
            "that are done are kept."
        ) from None
    processes.wait_for_everyone()
    if not processes.is_main_process:
        return None
    found = []
    for part in todo:
        certificates = part.journal.publish(part.study.indices)
        seconds = {index: spent for index, (_, spent) in part.journal.done().items()}
        found.append(Finished(part, certificates, seconds))
    return found


def _each(part: Part, blocks: Sequence[int], left: Set[int]) -> None:
    with Bar(part, len(left)) as bar:
        answer, every = part.begin(bar.sampled), range(len(part.study.indices))
        for block in blocks:
            since, some = time.perf_counter(), every[block * part.together :][: part.together]
            for certificate in answer(some):
                seconds = time.perf_counter() - since
                if certificate.index in left:
                    part.journal.append(certificate, seconds)
                    bar.finished(certificate)
                since = time.perf_counter()


class Bar:
    """Show images done, their speed and cost, and how many are certified, on a terminal."""

    def __init__(self, part: Part, images: int) -> None:
        processes = part.study.processes
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
        samples = 0 if part.smoothing is None else part.selecting + part.smoothing.n
        self._images, self._a_sample = images, 1 / max(samples, 1)
        self._task: TaskID = self._progress.add_task(
            f"{part.name}{shared}", total=max(images, 1), figures=""
        )
        self._done = self._right = self._evaluations = self._samples = 0
        self._since = time.perf_counter()
        self._n0, self._drawn = part.selecting, samples > 0
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
        sampled = f"{cost:.1f} evaluations/sample  " * self._drawn
        figures = (
            f"{self._done}/{self._images} images  {rate:.2g} images/s  "
            f"{sampled}{self._right} certified"
        )
        self._progress.update(self._task, completed=self._done, figures=figures)
