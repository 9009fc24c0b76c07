"""A run: all that changes while a model is trained, and how a batch and an epoch change it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, fields, replace
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import broadcast  # type: ignore[import-untyped]
from torch import Tensor
from torch.optim import Optimizer

from solvers import SolveError

from .. import __version__
from ..data import ImageData, seek
from ..data.batches import Batch
from ..models import ImageModel
from ..settings import TrainConfig
from .checkpoint import Checkpoint, CheckpointError, differences, weights
from .evaluate import evaluate, judge_start
from .identity import LATER, fingerprint, parts_of, planned
from .objective import BatchResult, Objective
from .observers import Place
from .optim import (
    SCHEDULES,
    cosine,
    load_state,
    set_rate,
    start_optimizer,
    start_rates,
    state_tensors,
    task_optimizer,
)
from .processes import turns_of
from .sets import Sets
from .tally import Tally, better

DRAWS = 2  # tells these random numbers from those of the shuffling (0) and augmentation (1)


class Diverged(RuntimeError):
    """The loss is no longer a number."""


class Run:
    """Train a model batch by batch, able to write itself down and to go on from what was written.

    A step is on the mean of `parts` batches, which the processes share. Every random number is a
    function of (seed, epoch, step, part), so there is no generator whose state could be lost: a run
    that goes on does what an unbroken one would have done, to the bit on a CPU with the same number
    of threads and processes, and to rounding with another.

    Arguments:
        model: the classifier, trained in place.
        data: train, validation (split off the train images here) and test images.
        config: how to train.
        accelerator: devices, processes and precision.
        about: JSON that says what the model and the data are, kept in the checkpoint.
        parts: those of the run that is gone on with; by default the config's.

    Raises:
        ValueError: the processes cannot share the parts, or the images are too few for a step.
    """

    def __init__(
        self,
        model: ImageModel,
        data: ImageData,
        config: TrainConfig,
        accelerator: Accelerator,
        about: Mapping[str, Any],
        parts: int | None = None,
    ) -> None:
        self.model, self.config, self.accelerator = model, config, accelerator
        self.parts = parts or config.parts or accelerator.num_processes
        self.turns = turns_of(self.parts, accelerator.num_processes)
        self.root = data.root
        settings = {k: v for k, v in asdict(config).items() if k != "save_every"}
        self.about = {**about, "training": settings, "images": fingerprint(data)}
        self.about["parts"] = self.parts
        self.sets = Sets.of(data, config, accelerator, full=self.parts > 1)
        self.objective = accelerator.prepare(Objective.of(model, config))
        betas = config.beta1, config.beta2
        self.task = accelerator.prepare(task_optimizer(model.task_parameters(), config.lr, betas))
        point = model.initial_point
        self.start: Optimizer | None = None
        self.start_lr, self.start_every = start_rates(
            config, point is None or model.layer.rest_point
        )
        if point is not None:
            self.start = accelerator.prepare(start_optimizer(point.parameters(), self.start_lr))
            self.about["loss of the start"] = "summed over the state"  # it was the mean
        batches = len(self.sets.train) // self.turns
        if not batches:
            raise ValueError(
                f"the train images make no step of {self.parts} full batches of {config.batch}: "
                "lower --batch."
            )
        self.place = Place(0, 0, batches, config.epochs)
        self.since = 0  # the step at which the rates began to fall
        self.tally = Tally()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.test: dict[str, Any] | None = None
        self.noisy_test: dict[str, Any] | None = None

    @property
    def rate(self) -> float:
        """Adam's learning rate at the next step."""
        change = SCHEDULES[self.config.schedule]
        return change(*self._along, self.config.lr, self.config.final_lr)

    @property
    def _along(self) -> tuple[int, int]:
        """Steps since the rates began, and to their end."""
        end = self.place.epochs * self.place.batches
        return self.place.step - self.since, end - self.since

    @property
    def size(self) -> int:
        """Bytes that the run needs on the disk: an old and a new checkpoint, at their largest."""
        moments = list(self.model.parameters())  # Adam keeps two numbers for each
        largest = 2 * [*self.model.state_dict().values(), *moments]  # weights: the last, the best
        return 2 * int(sum(t.numel() * t.element_size() for t in largest))

    def batches(self) -> Iterator[list[Batch]]:
        """Iterate over what is left of the epoch: this process's parts of each step."""
        if self.place.batch >= self.place.batches:
            return  # accelerate's loader may make None of an empty one
        seek(self.sets.train, self.place.epoch, self.place.batch * self.turns)
        batches = iter(self.sets.train)
        while len(step := list(islice(batches, self.turns))) == self.turns:
            yield step

    def learn(self, batches: Sequence[Batch]) -> None:
        """Take one step: on the mean over its parts, of which these are this process's.

        Raises:
            Diverged: the loss is not finite; the weights are as before the step.
        """
        place, config = self.place, self.config
        self.objective.train()
        self.task.zero_grad()
        set_rate(self.task, self.rate)
        start = self.start if place.step % self.start_every == 0 else None
        if start is not None:
            start.zero_grad()
            set_rate(start, cosine(*self._along, self.start_lr, 0.0))
        tally, buffers = self.tally, list(self.model.buffers())
        # Running statistics go on by the first part, as where each part has a process.
        before = broadcast([b.clone() for b in buffers]) if self.turns > 1 else buffers
        for turn, batch in reversed([*enumerate(batches)]):
            for buffer, old in zip(buffers, before, strict=True):
                buffer.copy_(old)
            # The gradients are reduced once a step.
            with self.accelerator.no_sync(self.objective) if turn else nullcontext():
                loss, sums = self._look(turn, batch, start is not None)
                self.accelerator.backward(loss / self.turns)
            tally = tally.plus(sums)
        if config.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.task_parameters(), config.clip)
        self.task.step()
        if start is not None:
            start.step()
        self.tally = tally
        self.place = replace(place, batch=place.batch + 1)

    def _look(self, turn: int, batch: Batch, with_start: bool) -> tuple[Tensor, Tensor]:
        """Return the loss of a part, and what it and those of the other processes sum up to."""
        place, (images, labels) = self.place, batch
        part = turn * self.accelerator.num_processes + self.accelerator.process_index
        key = (self.config.seed, place.epoch, place.batch, part, DRAWS)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
        result: BatchResult | None = None
        failure: SolveError | None = None
        try:
            result = cast("BatchResult", self.objective(images, labels, with_start))
            sums = torch.cat([Tally.sums(result, labels), result.loss.detach().double()[None]])
        except SolveError as error:  # `Unroll` has no finite gradient; the others wait in reduce
            failure = error
            count = len(fields(Tally)) + 1
            sums = torch.full((count,), math.nan, dtype=torch.double, device=labels.device)
        sums = cast("Tensor", self.accelerator.reduce(sums))
        if result is None or not bool(torch.isfinite(sums).all()):  # in all processes, or in none
            raise Diverged(
                f"The loss is not finite in epoch {place.epoch + 1}, batch {place.batch + 1}. "
                "Lower the learning rate, or start again with another seed."
            ) from failure
        return result.loss, sums[:-1]

    def close_epoch(self) -> dict[str, Any]:
        """Validate, keep the weights if they are the best yet, and begin the next epoch."""
        rate = self.rate
        found = evaluate(self.objective, self.sets.validation, self.accelerator)
        validation = found.figures()
        epoch = self.place.epoch + 1
        record = {"epoch": epoch, "lr": rate, "train": self.tally.means(), "validation": validation}
        start = judge_start(self.model, self.sets.first, self.accelerator)
        if start is not None:
            record["start"] = start
        self.history.append(record)
        if better(validation, self.best):
            self.best = {"epoch": epoch, **validation}
            self.best_weights = weights(self.model)
        self.place = Place(epoch, 0, self.place.batches, self.place.epochs)
        self.tally = Tally()
        return record

    def judge(self, advance: Callable[[int], None] | None = None) -> None:
        """Measure the best weights on the test images, once; the model keeps its last weights.

        A run under noise measures them on the images as they are and under a fixed draw of it.
        """
        last = weights(self.model)
        self.model.load_state_dict(self.best_weights)
        found = evaluate(self.objective, self.sets.test, self.accelerator, advance)
        self.test = found.figures()
        if self.sets.noisy is not None:
            found = evaluate(self.objective, self.sets.noisy, self.accelerator)
            self.noisy_test = found.figures()
        self.model.load_state_dict(last)

    def require_finite(self) -> None:
        """Raise Diverged if a weight is no number: a checkpoint of it would be of no use."""
        if not all(bool(torch.isfinite(p).all()) for p in self.model.parameters()):
            raise Diverged(
                f"The weights are not finite after step {self.place.step}; the checkpoint holds "
                "earlier ones. Lower the learning rate, or start again with another seed."
            )

    def checkpoint(self) -> Checkpoint:
        """Write down everything that the rest of the run depends on."""
        groups = {"model": weights(self.model), "best": self.best_weights}
        groups["task"] = state_tensors(self.task)
        if self.start is not None:
            groups["start"] = state_tensors(self.start)
        tensors = {f"{g}.{name}": t for g, group in groups.items() for name, t in group.items()}
        meta = {
            "about": self.about,
            "version": __version__,
            "rng": {"seed": self.config.seed, "drawn_from": "(seed, epoch, step, part)"},
            "place": asdict(self.place),
            "since": self.since,
            "root": None if self.root is None else str(self.root),
            "tally": asdict(self.tally),
            "history": self.history,
            "best": self.best,
            "test": self.test,
        }
        if self.noisy_test is not None:
            meta["noisy_test"] = self.noisy_test
        return Checkpoint(tensors, meta)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from what `checkpoint` wrote; to a later end, if `config` has more epochs.

        The learning rates then start again, and fall to the new end.

        Raises:
            CheckpointError: it belongs to a run with other settings or images, or is damaged.
        """
        parts, meta = parts_of(checkpoint), checkpoint.meta
        ends, asked = meta["place"]["epochs"], self.config.epochs
        before = {**planned(meta["about"], max(ends, asked)), "parts": parts}
        before.pop("processes", None)  # what they were called
        before["training"] = {**LATER, **before["training"]}
        # The checksums know the images, wherever they lie now.
        before["images"] = {**before["images"], "source": self.about["images"]["source"]}
        if differ := differences(before, self.about):
            told = "\n  ".join(["The checkpoint belongs to another run:", *differ])
            raise CheckpointError(told)
        if meta["place"]["batches"] != self.place.batches:
            raise checkpoint.fault(f"its epochs have {meta['place']['batches']} batches")
        last = checkpoint.state("model", self.model)
        if checkpoint.under("best") or meta["best"] is not None:
            self.best_weights = checkpoint.state("best", self.model)
        self.model.load_state_dict(last)
        try:
            load_state(self.task, checkpoint.under("task"))
            if self.start is not None:
                load_state(self.start, checkpoint.under("start"))
        except ValueError as error:
            raise checkpoint.fault(str(error)) from error
        self.place = Place(**{f.name: meta["place"][f.name] for f in fields(Place)})
        self.tally = Tally(**{f.name: meta["tally"][f.name] for f in fields(Tally)})
        self.history, self.best, self.test = list(meta["history"]), meta["best"], meta["test"]
        self.noisy_test = meta.get("noisy_test")
        self.since = meta.get("since", 0)
        if asked > ends:
            self.place = replace(self.place, epochs=asked)
            self.since, self.test, self.noisy_test = self.place.step, None, None
