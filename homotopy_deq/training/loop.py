"""Train a model in a folder: from scratch, or from where a killed run left off."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from accelerate import Accelerator  # type: ignore[import-untyped]

from ..data import ImageData
from ..models import ImageModel
from ..settings import TrainConfig
from .backward import FailedBackward
from .checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .folder import locked, require_room, require_writable
from .identity import parts_of
from .interrupt import Interrupt, Interrupted
from .measures import Measure
from .observers import MetricsFile, Observer, TensorBoard
from .processes import accelerator_for
from .run import Run

CHECKPOINT = "checkpoint.safetensors"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"


@dataclass(frozen=True)
class Outcome:
    """What a finished run found.

    Arguments:
        checkpoint: the file that holds it all.
        best: the epoch with the best validation figures, and these.
        test: the figures of that epoch's weights on the test images.
        history: the record of each epoch.
        noisy: as `test`, with the test images under a fixed draw of the noise that the model was
            trained under; None without noise.
    """

    checkpoint: Path
    best: Mapping[str, Any]
    test: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    noisy: Mapping[str, Any] | None = None


def check_folder(folder: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Raise OSError unless a run can begin, or go on, in a folder.

    Arguments:
        folder: of the run.
        resume: it goes on with the run there.
        overwrite: it takes the place of the run there.
    """
    there = (folder / CHECKPOINT).exists()
    if resume and overwrite:
        raise ValueError("resume goes on with a run and overwrite discards it: give one of them.")
    if resume and not there:
        raise FileNotFoundError(f"{folder} holds no {CHECKPOINT} to resume from.")
    if there and not resume and not overwrite:
        raise FileExistsError(
            f"{folder} already holds a run: resume it (--resume), overwrite it (--overwrite) or "
            "choose another folder (--out)."
        )
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; a run needs a folder.")
    require_writable(folder)


def train(
    model: ImageModel,
    data: ImageData,
    config: TrainConfig,
    folder: Path,
    *,
    about: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    observers: Sequence[Observer] = (),
    measures: Mapping[str, Measure] = MappingProxyType({}),
    accelerator: Accelerator | None = None,
) -> Outcome:
    """Train a model; leave it in eval mode, with the weights that were best on validation.

    The folder receives `checkpoint.safetensors` (after each epoch, and every `save_every` seconds),
    `metrics.jsonl` and `tensorboard/`. The test images choose nothing: they are looked at once,
    at the end. Where `resume` finds a run of fewer epochs than `config` says, it is trained on:
    the learning rates start again and fall to the new end, so that the result is not that of one
    run of so many epochs.

    Arguments:
        model: the classifier, trained in place.
        data: its images.
        config: how to train.
        folder: where to write.
        about: JSON that says how the model was made; `{"model": {"name", "config"}}` by default.
        resume: go on from the folder's checkpoint, which must be of this model, data and config.
        overwrite: discard the run that the folder holds.
        observers: watch the run beside the files.
        measures: taken after each epoch, told to the observers and files by name. They change
            nothing of the run, and the checkpoint does not hold them.
        accelerator: devices and processes; by default those that accelerate finds.

    Raises:
        FileExistsError: the folder holds a run, and neither `resume` nor `overwrite` is given; or
            another process is writing to it.
        OSError: the folder cannot be written to, or the disk has no room for the run.
        FileNotFoundError: there is nothing to resume.
        CheckpointError: the checkpoint belongs to a run with other settings; says which.
        Diverged: the loss is not finite any more.
        Interrupted: a signal asked to stop; the checkpoint holds everything up to then.
    """
    check_folder(folder, resume=resume, overwrite=overwrite)
    accelerator = accelerator or accelerator_for(config)
    default = {"model": {"name": type(model).__name__, "config": model.config}}
    path = folder / CHECKPOINT
    with locked(folder) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:  # once more, as another run may have been there meanwhile
            check_folder(folder, resume=resume, overwrite=overwrite)
        before = load_checkpoint(path) if resume else None
        parts = None if before is None else parts_of(before)
        run = Run(model, data, config, accelerator, about or default, parts)
        _run(run, path, before, observers, measures)
    model.load_state_dict(run.best_weights)
    model.eval()
    assert run.best is not None and run.test is not None
    return Outcome(path, run.best, run.test, run.history, run.noisy_test)


def _run(
    run: Run,
    path: Path,
    before: Checkpoint | None,
    observers: Sequence[Observer],
    measures: Mapping[str, Measure],
) -> None:
    folder, main = path.parent, run.accelerator.is_main_process
    if main:
        require_room(folder, run.size)
    if before is not None:
        run.restore(before)
    elif main:
        _clear(folder)
        save_checkpoint(path, run.checkpoint())  # from now on there is something to resume
    run.accelerator.wait_for_everyone()
    files: list[Observer] = [MetricsFile(folder / METRICS), TensorBoard(folder / TENSORBOARD)]
    watching = [*files, *observers] if main else []
    for observer in watching:
        observer.begin(run.place)
    try:
        with Interrupt() as interrupt, FailedBackward() as failed:
            _epochs(run, path, interrupt, failed, watching, measures if main else {})
            if run.test is None:
                run.judge()
                _save(run, path)
    finally:
        for observer in watching:
            observer.end()


def _epochs(
    run: Run,
    path: Path,
    interrupt: Interrupt,
    failed: FailedBackward,
    watching: Sequence[Observer],
    measures: Mapping[str, Measure],
) -> None:
    saved = time.monotonic()
    while run.place.epoch < run.place.epochs:
        for batches in run.batches():
            rate = run.rate
            run.learn(batches)
            for observer in watching:
                observer.batch(run.place, run.tally, rate)
            if _stopping(run.accelerator, interrupt):
                _save(run, path)
                raise Interrupted(
                    f"Stopped in epoch {run.place.epoch + 1} of {run.place.epochs} after batch "
                    f"{run.place.batch} of {run.place.batches}; {path} holds everything up to here."
                )
            if time.monotonic() - saved >= run.config.save_every:
                _save(run, path)
                saved = time.monotonic()
        failed.tell(run.place.epoch + 1)
        record = run.close_epoch()
        record = {**record, **{name: measure() for name, measure in measures.items()}}
        for observer in watching:  # before saving: a kill in between has the epoch told twice
            observer.epoch(run.place, record)
        _save(run, path)
        saved = time.monotonic()


def _stopping(accelerator: Accelerator, interrupt: Interrupt) -> bool:
    """Say whether to stop, all processes at the same batch."""
    if accelerator.num_processes == 1:
        return interrupt.asked
    if interrupt.asked:
        accelerator.set_trigger()
    return bool(accelerator.check_trigger())


def _save(run: Run, path: Path) -> None:
    run.require_finite()
    if run.accelerator.is_main_process:
        save_checkpoint(path, run.checkpoint())


def _clear(folder: Path) -> None:
    """Remove the files of an earlier run, and nothing else."""
    for name in (CHECKPOINT, METRICS):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
