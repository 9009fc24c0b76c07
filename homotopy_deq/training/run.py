"""A run: all that changes while a model is trained, and how a batch and an epoch change it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor
from torch.optim import Optimizer

from solvers import SolveError

from .. import __version__
from ..data import Augmentation, ImageData, loader, seek, split_validation
from ..models import ImageModel
from ..settings import TrainConfig
from .checkpoint import Checkpoint, CheckpointError, differences
from .evaluate import Evaluation, evaluate, judge_start
from .header import check_header
from .identity import LATER, fingerprint, planned
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
from .smoothing import TEST, VALIDATION, held_noise
from .tally import Tally, better

DRAWS = 2  # tells these random numbers from those of the shuffling (0) and augmentation (1)


class Diverged(RuntimeError):
    """The loss is no longer a number."""


class Run:
    """Train a model batch by batch, able to write itself down and to go on from what was written.

    Every random number is a function of (seed, epoch, batch, process), so there is no generator
    whose state could be lost: a run that goes on does what an unbroken one would have done, to
    the bit on a CPU with the same number of threads.

    Arguments:
        model: the classifier, trained in place.
        data: train, validation (split off the train images here) and test images.
        config: how to train.
        accelerator: devices, processes and precision.
        about: JSON that says what the model and the data are, kept in the checkpoint.
    """

    def __init__(
        self,
        model: ImageModel,
        data: ImageData,
        config: TrainConfig,
        accelerator: Accelerator,
        about: Mapping[str, Any],
    ) -> None:
        self.model, self.config, self.accelerator = model, config, accelerator
        self.root = data.root
        settings = {k: v for k, v in asdict(config).items() if k != "save_every"}
        self.about = {
            **about,
            "training": settings,
            "images": fingerprint(data),
            "processes": accelerator.num_processes,  # share the samples and the random numbers
        }
        kept, held = split_validation(data, config.validation, config.seed)
        augment = Augmentation(config.flip, config.pad) if config.flip or config.pad else None

        def prepared(images: Tensor, labels: Tensor, train: bool) -> Any:
            change = augment if train else None
            raw = loader(
                images,
                labels,
                config.batch,
                shuffle=train,
                augment=change,
                seed=config.seed,
                drop_last=train and accelerator.num_processes > 1,  # see `seek`
            )
            return accelerator.prepare(raw)

        images, labels = data.train_images, data.train_labels
        self.train_batches = prepared(images[kept], labels[kept], True)
        smoothing = config.smoothing
        judged, tested = images[held], data.test_images
        self.test_batches = prepared(tested, data.test_labels, False)
        self.noisy_batches: Any = None  # the test images under noise, where that is trained for
        if smoothing is not None:
            judged = held_noise(judged, smoothing.noise, config.seed, VALIDATION)
            tested = held_noise(tested, smoothing.noise, config.seed, TEST)
            self.noisy_batches = prepared(tested, data.test_labels, False)
        self.validation_batches = prepared(judged, labels[held], False)
        few = judged[: config.batch], labels[held][: config.batch]  # to judge starts by
        self.first = next(iter(loader(*few, config.batch, shuffle=False)))[0].to(accelerator.device)
        self.objective = accelerator.prepare(
            Objective(
                model,
                config.residual_penalty,
                config.jacobian_penalty,
                smoothing,
                offset=config.offset,
                temperature=config.temperature,
                structure_weight=config.structure_penalty,
            )
        )
        betas = config.beta1, config.beta2
        self.task = accelerator.prepare(task_optimizer(model.task_parameters(), config.lr, betas))
        point = model.initial_point
        self.start: Optimizer | None = None
        rests = point is None or model.layer.rest_point
        self.start_lr, self.start_every = start_rates(config, rests)
        if point is not None:
            self.start = accelerator.prepare(start_optimizer(point.parameters(), self.start_lr))
            self.about["loss of the start"] = "summed over the state"  # it was the mean
        if not len(self.train_batches):
            raise ValueError(
                f"{len(kept)} train images make no full batch of {config.batch} for each of "
                f"{accelerator.num_processes} processes: lower --batch."
            )
        self.place = Place(0, 0, len(self.train_batches), config.epochs)
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

    def batches(self) -> Any:
        """Iterate over what is left of the epoch."""
        if self.place.batch >= self.place.batches:
            return iter(())  # accelerate's loader may make None of an empty one
        seek(self.train_batches, self.place.epoch, self.place.batch)
        return iter(self.train_batches)

    def learn(self, images: Tensor, labels: Tensor) -> None:
        """Take one step on a batch.

        Raises:
            Diverged: the loss is not finite; the weights are as before the step.
        """
        place, config = self.place, self.config
        key = (config.seed, place.epoch, place.batch, self.accelerator.process_index, DRAWS)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
        self.objective.train()
        start = self.start if place.step % self.start_every == 0 else None
        result: BatchResult | None = None
        failure: SolveError | None = None
        try:
            found: BatchResult = self.objective(images, labels, start is not None)
            loss = found.loss.detach().double()
            sums = torch.cat([Tally.sums(found, labels), loss[None]])
            result = found
        except SolveError as error:  # `Unroll` has no finite gradient; the others wait in reduce
            failure = error
            sums = torch.full(
                (len(fields(Tally)) + 1,), math.nan, dtype=torch.double, device=labels.device
            )
        sums = cast("Tensor", self.accelerator.reduce(sums))
        if result is None or not bool(torch.isfinite(sums).all()):  # in all processes, or in none
            raise Diverged(
                f"The loss is not finite in epoch {place.epoch + 1}, batch {place.batch + 1}. "
                "Lower the learning rate, or start again with another seed."
            ) from failure
        self.task.zero_grad()
        set_rate(self.task, self.rate)
        if start is not None:
            start.zero_grad()
            set_rate(start, cosine(*self._along, self.start_lr, 0.0))
        self.accelerator.backward(result.loss)
        if config.clip is not None:
            self.accelerator.clip_grad_norm_(self.model.task_parameters(), config.clip)
        self.task.step()
        if start is not None:
            start.step()
        self.tally = self.tally.plus(sums[:-1])
        self.place = Place(place.epoch, place.batch + 1, place.batches, place.epochs)

    def close_epoch(self) -> dict[str, Any]:
        """Validate, keep the weights if they are the best yet, and begin the next epoch."""
        rate = self.rate
        found = evaluate(self.objective, self.validation_batches, self.accelerator)
        validation = _plain(found)
        epoch = self.place.epoch + 1
        record = {"epoch": epoch, "lr": rate, "train": self.tally.means(), "validation": validation}
        start = judge_start(self.model, self.first, self.accelerator)
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
        found = evaluate(self.objective, self.test_batches, self.accelerator, advance)
        self.test = _plain(found)
        if self.noisy_batches is not None:
            found = evaluate(self.objective, self.noisy_batches, self.accelerator)
            self.noisy_test = _plain(found)
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
            "rng": {"seed": self.config.seed, "drawn_from": "(seed, epoch, batch, process)"},
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
            CheckpointError: it belongs to a run with other settings, other images or another
                number of processes, or is damaged.
        """
        check_header(checkpoint)
        meta = checkpoint.meta
        ends, asked = meta["place"]["epochs"], self.config.epochs
        before = planned(meta["about"], max(ends, asked))
        before["training"] = {**LATER, **before["training"]}
        # The checksums know the images, wherever they lie now.
        before["images"] = {**before["images"], "source": self.about["images"]["source"]}
        differ = differences({"processes": 1, **before}, self.about)
        if differ:
            raise CheckpointError(
                "The checkpoint belongs to another run:\n  " + "\n  ".join(differ)
            )
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


def accelerator_for(config: TrainConfig, *, cpu: bool = False) -> Accelerator:
    """Return accelerate's view of the devices and processes: torchrun's, or the machine's."""
    return Accelerator(mixed_precision=config.precision, cpu=cpu)


def weights(model: ImageModel) -> dict[str, Tensor]:
    """Return a copy of a model's parameters and buffers, on the CPU."""
    return {k: v.detach().cpu().clone() for k, v in model.state_dict().items()}


def _plain(evaluation: Evaluation) -> dict[str, Any]:
    """Return the figures that equal runs have in common, null where there is none."""
    found = asdict(evaluation)
    del found["seconds"]
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in found.items()}
