"""Train bounded networks with all images on the device, by steps or by the clock, and resume."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homotopy_deq.cells.bounds import gram_norm
from homotopy_deq.lipschitz import MonDEQCell, departure
from homotopy_deq.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from homotopy_deq.training.objective import margin_loss
from homotopy_deq.training.optim import load_state, state_tensors, triangular

EVERY = 50
"""Steps between looks at the clock, which wait for the GPU."""
SAVE = 45.0
"""Seconds between checkpoints."""


@dataclass(frozen=True)
class Images:
    """Images and labels on a device, in batches that are a function of the seed and the step.

    Arguments:
        x: uint8, (N, C, H, W).
        y: int64, (N,).
        seed: of order and augmentation.
        pad: pixels of black around an image before a random crop; 0 for none.
        flip: whether half of them are mirrored.
    """

    x: Tensor
    y: Tensor
    seed: int
    pad: int = 0
    flip: bool = False

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Return the images of a step, floats in [0, 1], and their labels."""
        size = min(size, len(self.y))
        epoch, place = divmod(step, len(self.y) // size)
        draw = torch.Generator(self.x.device)
        order = torch.randperm(
            len(self.y), generator=draw.manual_seed(self.seed + epoch), device=self.x.device
        )
        index = order[place * size : (place + 1) * size]
        x = self.x[index]
        if self.pad or self.flip:
            x = self._augmented(x, draw.manual_seed((self.seed << 32) + step))
        return x.float() / 255, self.y[index]

    def _augmented(self, x: Tensor, draw: torch.Generator) -> Tensor:
        count, channels, height, width = x.shape
        where = {"generator": draw, "device": x.device}
        down, along = torch.randint(0, 2 * self.pad + 1, (2, count, 1), **where)  # type: ignore[call-overload]
        rows = down + torch.arange(height, device=x.device)
        columns = along + torch.arange(width, device=x.device)
        if self.flip:
            mirrored = torch.rand(count, 1, **where) < 0.5  # type: ignore[call-overload]
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = F.pad(x, (self.pad,) * 4)
        sample = torch.arange(count, device=x.device)[:, None, None, None]
        channel = torch.arange(channels, device=x.device)[:, None, None]
        return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


@dataclass(frozen=True)
class Course:
    """How a network is trained.

    Arguments:
        steps: how many; or
        seconds: of training in all, by which the schedule then goes.
        lr: the largest rate of a triangular schedule; the rate of all steps if `constant`.
        batch: images a step.
        constant: as the authors fine-tune.
        penalty: of what leaves the structure, see `departure`.
        clip: largest norm of a gradient.
        offset, temperature: of the loss, see `margin_loss`.
    """

    steps: int = 0
    seconds: float = 0.0
    lr: float = 1e-2
    batch: int = 256
    constant: bool = False
    penalty: float = 0.0
    clip: float | None = None
    offset: float = 2**0.5
    temperature: float = 0.25

    def rate(self, step: int, seconds: float) -> float:
        """Return the rate of a step."""
        if self.constant:
            return self.lr
        if self.seconds:
            return triangular(int(1000 * seconds), int(1000 * self.seconds), self.lr, 0.0)
        return triangular(step, self.steps, self.lr, 0.0)

    def over(self, step: int, seconds: float) -> bool:
        """Say whether the training has ended."""
        return seconds >= self.seconds if self.seconds else step >= self.steps


class OutOfTime(Exception):
    """This call has trained as long as it may; the next one goes on."""


@dataclass
class Watch:
    """How long this call may still train.

    Arguments:
        left: seconds.
    """

    left: float = float("inf")


def logits_of(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return the logits by which to train: over the constant, which only a monDEQ may choose."""
    cells = [part for part in model.modules() if isinstance(part, MonDEQCell)]

    def logits(x: Tensor) -> Tensor:
        y: Tensor = model(x)
        for cell in cells:
            u, v = (gram_norm(cell.blocks(t)) for t in (cell.u, cell.v))
            y = y * (cell.cell.monotonicity / (u * v))
        return y

    return logits


def train(
    model: nn.Module,
    logits: Callable[[Tensor], Tensor],
    images: Images,
    course: Course,
    file: Path,
    watch: Watch,
) -> dict[str, Any]:
    """Train in place, from `file` where there is one, and return what it took.

    Arguments:
        model: whose parameters are trained.
        logits: of images, from these parameters.
        images: to learn from.
        course: how.
        file: where the state is kept on the way and at the end.
        watch: how long.

    Raises:
        OutOfTime: the watch has run out; `file` holds the state.
    """
    model.train()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(weights, lr=course.lr, betas=(0.5, 0.9))
    step, seconds, losses = 0, 0.0, []
    if file.exists():
        kept = load_checkpoint(file)
        model.load_state_dict(kept.under("model"))
        load_state(optimiser, kept.under("optimiser"))
        step, seconds, losses = (kept.meta[name] for name in ("step", "seconds", "losses"))

    def save() -> None:
        tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
        tensors |= {f"optimiser.{name}": t for name, t in state_tensors(optimiser).items()}
        told = {"step": step, "seconds": seconds, "losses": losses}
        save_checkpoint(file, Checkpoint(tensors, told))

    total = torch.zeros((), device=images.x.device)
    saved = since = time.perf_counter()
    counted = 0
    while not course.over(step, seconds):
        x, y = images.batch(step, course.batch)
        now = seconds + time.perf_counter() - since
        for group in optimiser.param_groups:
            group["lr"] = course.rate(step, now)
        loss = margin_loss(logits(x), y, course.offset, course.temperature)
        total += loss.detach()
        if course.penalty:
            loss = loss + course.penalty * departure(model)
        optimiser.zero_grad()
        loss.backward()
        if course.clip is not None:
            nn.utils.clip_grad_norm_(weights, course.clip)
        optimiser.step()
        step, counted = step + 1, counted + 1
        if step % EVERY and not course.over(step, now):
            continue
        losses.append(round(float(total) / counted, 5))  # waits for the device
        total.zero_()
        counted, before, since = 0, since, time.perf_counter()
        seconds += since - before
        watch.left -= since - before
        if watch.left <= 0 and not course.over(step, seconds):
            save()
            raise OutOfTime
        if since - saved > SAVE:
            save()
            saved = since
    save()  # what comes after may be cut short, too
    model.eval()
    few = losses[:: max(1, len(losses) // 50)]
    return {"steps": step, "seconds": round(seconds, 1), "batch": course.batch, "losses": few}
