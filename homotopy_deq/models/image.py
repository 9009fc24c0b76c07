"""What every image classifier of this library is: stem, implicit layer, head."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from solvers import Equilibrium, Gradient, Solution, Solver

from ..layers import Layer
from .blocks import Normalize, classifier, stem
from .start import InitialPoint

Statistic = float | Sequence[float]
M = TypeVar("M", bound="ImageModel")


@dataclass(frozen=True)
class ModelOutput:
    """What a model computed for a batch of images.

    Arguments:
        logits: (B, num_classes).
        solution: the layer's solution, with every sample's status, steps and evaluations.
        condition: what the cell was iterated with, dropout mask included, for the penalties of
            `homotopy_deq.regularization`.
    """

    logits: Tensor
    solution: Solution[Tensor]
    condition: tuple[Tensor, ...]


class ImageModel(nn.Module):
    """Classify images: normalise, stem, implicit layer, head.

    `model(images)` returns logits and acts on samples that did not converge by `on_failure`;
    `model.solve(images)` returns a `ModelOutput` and leaves that to the caller.

    Attributes:
        config: the constructor's arguments without solver and gradient, JSON-able:
            `type(model)(**model.config)` builds the same model with fresh weights.
        layer: the implicit layer.
        initial_point: the shared learnable start, or None where the cell gives one.
    """

    layer: Layer
    initial_point: InitialPoint | None

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        hidden: int,
        head: int,
        pool: int,
        groups: int,
        mean: Statistic,
        std: Statistic,
        augment: int = 0,
    ) -> None:
        super().__init__()
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"shape must be (channels, height, width); got {tuple(shape)}.")
        if num_classes < 1 or pool < 1:
            raise ValueError(
                f"num_classes and pool must be at least 1; got {num_classes} and {pool}."
            )
        self.shape = tuple(shape)
        self.config: dict[str, Any] = {
            "shape": list(shape),
            "num_classes": num_classes,
            "hidden": hidden,
            "head": head,
            "pool": pool,
            "groups": groups,
            "mean": mean if isinstance(mean, (int, float)) else list(mean),
            "std": std if isinstance(std, (int, float)) else list(std),
        }
        self.normalize = Normalize(shape[0], mean, std)
        self.stem = stem(shape[0], hidden)
        self.head = classifier(hidden + augment, head, num_classes, groups, pool)
        self.initial_point = None

    def condition(self, images: Tensor) -> Tensor:
        """Return what the layer is conditioned on, (B, hidden, ceil(H/2), ceil(W/2))."""
        if images.dim() != 4 or tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"images must have shape (B, {', '.join(map(str, self.shape))}); "
                f"got {tuple(images.shape)}."
            )
        if not images.is_floating_point():
            raise ValueError(f"images must be floating point in [0, 1]; got {images.dtype}.")
        x: Tensor = self.stem(self.normalize(images))
        return x

    def start(self, x: Tensor) -> Tensor:
        """Return where a solve for the layer's condition x starts."""
        if self.initial_point is None:
            return self.layer.initial(x)
        start: Tensor = self.initial_point(x.shape)
        return start.detach().clone()  # memory of its own, not an expanded view

    def solve(
        self, images: Tensor, z0: Tensor | Solution[Tensor] | None = None, *, record: bool = False
    ) -> ModelOutput:
        """Return logits and the layer's solution, with gradients.

        Arguments:
            images: (B, C, H, W), in [0, 1].
            z0: the start, or an earlier `Solution` to start from its value.
            record: keep the iterates in `solution.trajectory`.
        """
        x = self.condition(images)
        condition = self.layer.condition(x)
        start = self.start(x) if z0 is None else z0
        solution = self.layer.answer(condition, start, record=record)
        return ModelOutput(self.head(solution.value), solution, condition)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, (B, num_classes)."""
        output = self.solve(images)
        self.layer.accept(output.solution)
        return output.logits

    def with_solver(
        self: M,
        solver: Solver[Any, Any],
        gradient: Gradient[Any] | None = None,
        *,
        t1: float | None = None,
        polish: Solver[Equilibrium, Any] | None = None,
    ) -> M:
        """Return this model with another forward pass; the weights are shared, not copied.

        Arguments and errors as in `Layer.with_solver`.
        """
        other = copy.copy(self)
        other._modules = dict(self._modules)
        other.layer = self.layer.with_solver(solver, gradient, t1=t1, polish=polish)
        return other

    def task_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the task trains: all but the initial point's."""
        start = self.initial_point
        apart = set() if start is None else {id(p) for p in start.parameters()}
        return [p for p in self.parameters() if id(p) not in apart]
