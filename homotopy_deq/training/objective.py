"""What is minimised, as one module, so that data parallelism and autocast wrap all of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..adversary import smoothed
from ..lipschitz import departure
from ..models import ImageModel
from ..regularization import jacobian_penalty, residual_penalty
from ..settings import SmoothTraining, TrainConfig
from .smoothing import consistency_loss, noisy


class BatchResult(NamedTuple):
    """What one batch gave. Under several draws of noise an image's figures are their means.

    Arguments:
        loss: what is to be minimised, penalties included, 0-d.
        logits: (B, num_classes); under several draws the log of the mean probabilities.
        cross_entropy: of each sample, (B,).
        evals: evaluations of the map or field that each sample took, (B,).
        converged: which samples' solver succeeded, under every draw, bool (B,).
        residual: ||f(z) - z|| / ||f(z)|| of each sample's answer, (B,); NaN where the model's
            equation has no equilibrium. Only outside training.
    """

    loss: Tensor
    logits: Tensor
    cross_entropy: Tensor
    evals: Tensor
    converged: Tensor
    residual: Tensor


class Objective(nn.Module):
    """Return the loss of a batch and the figures to be watched.

    Cross entropy, plus the penalties, plus the initial point's own loss when asked: that one
    reaches the initial point's parameters alone, and the others never do. With an offset or a
    temperature tau the loss is tau CE((logits - offset onehot) / tau), which asks for margins; the
    figures stay those of the cross entropy.

    Arguments:
        model: the classifier.
        residual_weight: of the mean squared relative residual at the answer.
        jacobian_weight: of the squared Frobenius norm of df/dz at the answer.
        smoothing: the noise to train under, None for none. Outside training it adds none.
        offset: taken from the logit of the right class.
        temperature: tau.
        structure_weight: of ||W * 1[W_0 = 0]||_1, see `LBENCell.departure`.

    References:
        B. Prach, C. Lampert (2022), Almost-orthogonal layers for efficient general-purpose
        Lipschitz networks: offset and temperature.
        A. Havens et al. (2023), Exploiting connections between Lipschitz structures for certifiably
        robust deep equilibrium models: the penalty of structure.
    """

    def __init__(
        self,
        model: ImageModel,
        residual_weight: float = 0.0,
        jacobian_weight: float = 0.0,
        smoothing: SmoothTraining | None = None,
        *,
        offset: float = 0.0,
        temperature: float = 1.0,
        structure_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if (residual_weight or jacobian_weight) and not model.layer.one_equation:
            raise ValueError(
                "residual_penalty and jacobian_penalty are of a model's one implicit layer, and "
                f"{type(model).__name__} is a stack of layers: leave them out."
            )
        self.model = model
        self.residual_weight = residual_weight
        self.jacobian_weight = jacobian_weight
        self.smoothing = smoothing
        self.offset, self.temperature = offset, temperature
        self.structure_weight = structure_weight

    @classmethod
    def of(cls, model: ImageModel, config: TrainConfig) -> Objective:
        """Return what a config says to minimise."""
        return cls(
            model,
            config.residual_penalty,
            config.jacobian_penalty,
            config.smoothing,
            offset=config.offset,
            temperature=config.temperature,
            structure_weight=config.structure_penalty,
        )

    def forward(self, images: Tensor, labels: Tensor, with_start: bool = False) -> BatchResult:
        """Solve for the batch; `with_start` adds the initial point's loss."""
        model = self.model
        smoothing = self.smoothing if self.training else None
        draws = 1 if smoothing is None else smoothing.samples
        if smoothing is not None:
            images, labels = noisy(model, images, labels, smoothing), labels.repeat(draws)
        output = model.solve(images)
        cell, z, condition = model.layer.cell, output.solution.value, output.condition
        cross_entropy = F.cross_entropy(output.logits.float(), labels, reduction="none")
        loss = cross_entropy.mean()
        if self.training:
            if (self.offset, self.temperature) != (0.0, 1.0):
                loss = margin_loss(output.logits.float(), labels, self.offset, self.temperature)
            if self.structure_weight:
                loss = loss + self.structure_weight * departure(model)
            residual = torch.zeros_like(cross_entropy)
            if smoothing is not None and smoothing.consistency:
                weights = smoothing.consistency, smoothing.entropy
                loss = loss + consistency_loss(output.logits, draws, *weights)
            if self.residual_weight:
                loss = loss + self.residual_weight * residual_penalty(cell, z, *condition)
            if self.jacobian_weight:
                loss = loss + self.jacobian_weight * jacobian_penalty(cell, z, *condition)
            if model.initial_point is not None:
                # Times 0, not left out: data parallelism wants every parameter in every step.
                loss = loss + float(with_start) * model.initial_point.loss(output.x, z)
        else:
            residual = model.residual(output)
        solution = output.solution
        found = BatchResult(
            loss,
            output.logits,
            cross_entropy.detach(),
            solution.evals,
            solution.converged,
            residual.detach(),
        )
        return found if draws == 1 else _over(found, draws)


def margin_loss(logits: Tensor, labels: Tensor, offset: float, temperature: float) -> Tensor:
    """Return tau CE((logits - offset onehot) / tau), a mean over the batch."""
    shift = F.one_hot(labels, logits.shape[1]).to(logits) * offset
    return F.cross_entropy((logits - shift) / temperature, labels) * temperature


def _over(each: BatchResult, draws: int) -> BatchResult:
    """Return the figures of the images from those of their draws, the first draw's first."""
    return BatchResult(
        each.loss,
        smoothed(each.logits.detach(), draws),
        each.cross_entropy.reshape(draws, -1).mean(0),
        each.evals.reshape(draws, -1).double().mean(0),
        each.converged.reshape(draws, -1).all(0),
        each.residual.reshape(draws, -1).mean(0),
    )
