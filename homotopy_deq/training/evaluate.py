"""Measure a model on images that it was not trained on."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .objective import BatchResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from accelerate import Accelerator  # type: ignore[import-untyped]

    from ..models import ImageModel


@dataclass(frozen=True)
class Evaluation:
    """The figures of a model on a set of images.

    Arguments:
        samples: number of images.
        accuracy: share of images classified rightly, in [0, 1].
        loss: mean cross entropy.
        calibration: expected calibration error (15 bins), in [0, 1].
        nfe: mean evaluations of the map or field for an image.
        converged: share of images whose solver succeeded: for an equilibrium, the residual is
            within tolerance; for a flow, the integration reached its end.
        residual_median: of ||f(z) - z|| / ||f(z)|| at the answer, whatever solver found it; NaN
            where the equation has no equilibrium.
        residual_worst: the largest of the same.
        seconds: wall time.
    """

    samples: int
    accuracy: float
    loss: float
    calibration: float
    nfe: float
    converged: float
    residual_median: float
    residual_worst: float
    seconds: float

    @property
    def failed(self) -> int:
        """How many samples did not converge."""
        return round(self.samples * (1 - self.converged))

    def figures(self) -> dict[str, Any]:
        """Return what equal runs have in common, as JSON: null where there is none."""
        found = asdict(self)
        del found["seconds"]
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in found.items()}


@torch.no_grad()
def evaluate(
    objective: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    accelerator: Accelerator,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Measure the model in an `Objective`, over all processes; it is left in eval mode.

    Arguments:
        objective: an `Objective`, prepared by the accelerator or not.
        batches: images in [0, 1] and labels; a loader prepared by the accelerator.
        accelerator: gathers from the processes, without the images that pad the last batch.
        advance: told the number of images of each batch that is done.
    """
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_calibration_error,
    )

    objective.eval()
    began = time.perf_counter()
    parts: list[tuple[Tensor, ...]] = []
    for images, labels in batches:
        result: BatchResult = objective(images, labels)
        columns: Any = (labels, result.logits.float(), result.cross_entropy, *result[3:])
        parts.append(tuple(c.cpu() for c in accelerator.gather_for_metrics(columns)))
        if advance is not None:
            advance(len(parts[-1][0]))
    labels, logits, loss, evals, converged, residual = (
        torch.cat(column) for column in zip(*parts, strict=True)
    )
    classes = logits.shape[1]
    return Evaluation(
        samples=len(labels),
        accuracy=float(multiclass_accuracy(logits, labels, classes, average="micro")),
        loss=float(loss.double().mean()),
        calibration=float(multiclass_calibration_error(logits.softmax(1), labels, classes)),
        nfe=float(evals.double().mean()),
        converged=float(converged.double().mean()),
        residual_median=float(residual.median()),
        residual_worst=float(residual.max()),
        seconds=time.perf_counter() - began,
    )


@torch.no_grad()
def judge_start(
    model: ImageModel, images: Tensor, accelerator: Accelerator
) -> dict[str, float] | None:
    """Return what a model's start is worth on some images: None where it has none.

    Returns:
        `loss`, its own; `nfe` and `nfe_zero`, the mean evaluations of solves from it and from
        zero; means over the processes.
    """
    if model.initial_point is None:
        return None
    with accelerator.autocast():
        found = model.solve(images)
        zero = model.solve(images, torch.zeros_like(found.solution.value))
        loss = model.initial_point.loss(found.x, found.solution.value)
    parts = (loss, found.solution.evals.double().mean(), zero.solution.evals.double().mean())
    means: Any = accelerator.reduce(torch.stack([part.double() for part in parts]), "mean")
    return dict(zip(("loss", "nfe", "nfe_zero"), means.tolist(), strict=True))
