"""What every image classifier of this library is: stem, implicit layer, head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from solvers import ODE, Adjoint, Equilibrium, Gradient, RungeKutta, Solution, Solver, Status

from ..cells import Bounds, FixedCell, InclusionCell
from ..finite import finite_rows, put_back, rows_of, spread_rows
from ..layers import Layer
from ..twin import twin
from .blocks import LinearHead, Normalize, classifier, stem
from .start import InitialPoint, VectorPoint

Statistic = float | Sequence[float]
M = TypeVar("M", bound="ImageModel")


def integrator(gradient: Gradient[Any] | None) -> ODE | RungeKutta:
    """Return dopri5 at 1e-3 for a flow: ours, but torchdiffeq's under `Adjoint`, which needs it."""
    return ODE() if isinstance(gradient, Adjoint) else RungeKutta()


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
    initial_point: InitialPoint | VectorPoint | None

    def __init__(
        self,
        shape: Sequence[int],
        num_classes: int,
        *,
        hidden: int,
        head: int | None = None,
        pool: int,
        groups: int | None = None,
        mean: Statistic,
        std: Statistic,
        augment: int = 0,
        blocks: tuple[nn.Module, nn.Module] | None = None,
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
            "pool": pool,
            "mean": mean if isinstance(mean, (int, float)) else list(mean),
            "std": std if isinstance(std, (int, float)) else list(std),
        }
        sizes = {"head": head, "groups": groups}
        self.config |= {name: size for name, size in sizes.items() if size is not None}
        self.normalize = Normalize(shape[0], mean, std)
        self.stem: nn.Module
        self.head: nn.Module
        if blocks is not None:
            self.stem, self.head = blocks
        else:
            assert head is not None and groups is not None
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

        An image that is not finite is not looked at: its logits are NaN, its sample ends
        NONFINITE, and every gradient is that of the batch without it.

        Arguments:
            images: (B, C, H, W), in [0, 1].
            z0: the start, or an earlier `Solution` to start from its value.
            record: keep the iterates in `solution.trajectory`.
        """
        rows = finite_rows(images)
        if rows is not None:
            return self._without_the_others(images, rows, z0, record)
        x = self.condition(images)
        condition = self.layer.condition(x)
        start = self.start(x) if z0 is None else z0
        solution = self.layer.answer(condition, start, record=record)
        return ModelOutput(self.head(solution.value), solution, condition)

    def _without_the_others(
        self, images: Tensor, rows: Tensor, z0: Tensor | Solution[Tensor] | None, record: bool
    ) -> ModelOutput:
        """Solve the images `rows` alone: the stem shares the statistics of its batch."""
        batch = len(images)
        if len(rows) == 0:  # all weights still get their zeros
            found = self.solve(torch.zeros_like(images), z0, record=record)
            none = replace(
                found.solution,
                status=torch.full_like(found.solution.status, Status.NONFINITE),
                residual=torch.full_like(found.solution.residual, float("inf")),
            )
            logits = found.logits.masked_fill(torch.ones_like(found.logits).bool(), float("nan"))
            return ModelOutput(logits, none, found.condition)
        found = self.solve(images.index_select(0, rows), rows_of(z0, rows), record=record)
        return ModelOutput(
            spread_rows(found.logits, rows, batch, float("nan")),
            put_back(found.solution, rows, batch, z0),
            tuple(spread_rows(part, rows, batch, 0) for part in found.condition),
        )

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

        Its mode is its own from then on: `eval()` of one leaves the other in training.

        Arguments and errors as in `Layer.with_solver`.
        """
        other = twin(self)
        other.layer = self.layer.with_solver(solver, gradient, t1=t1, polish=polish)
        return other

    @property
    def reason(self) -> str | None:
        """Why no vote of this model can be verified, or None: a sentence for the user."""
        name = type(self).__name__
        if not self.layer.rest_point:
            return f"{name} follows a flow without a rest point, which has no equilibrium."
        if not isinstance(self.layer.cell, InclusionCell):
            cell = type(self.layer.cell).__name__
            return f"nothing bounds how far {name}'s solver is from the equilibrium of its {cell}."
        if not isinstance(self.head, LinearHead):
            return f"the head of {name} is not affine."
        return None

    @property
    def verifiable(self) -> bool:
        """Whether `bounds` and `linear_head` can prove a vote."""
        return self.reason is None

    def bounds(self) -> Bounds:
        """Return what is proved of the weights as they are, for `cells.error_bound`.

        Raises:
            ValueError: the model is not `verifiable`, or nothing is proved of its weights.
        """
        return self._inclusion().bounds()

    def linear_head(self) -> tuple[Tensor, Tensor]:
        """Return C (num_classes, n) and d of logits = C z* + d, z* flattened; double precision.

        Raises:
            ValueError: the model is not `verifiable`.
        """
        cell = self._inclusion()
        assert isinstance(self.head, LinearHead)
        return self.head.affine(cell.shape)

    def fixed(self: M) -> M:
        """Return this model with its cell's W as a constant, so that no solve computes it again.

        What is proved of that W then holds for every solve, to the bit; the W of a cell with
        parameters may have other last digits on another machine or number of threads.

        Raises:
            ValueError: the model is not `verifiable`.
        """
        other = twin(self)
        other.layer.cell = FixedCell(other._inclusion())
        return other

    def _inclusion(self) -> InclusionCell:
        if self.reason is not None:
            raise ValueError(self.reason)
        assert isinstance(self.layer.cell, InclusionCell)
        return self.layer.cell

    def task_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the task trains: all but the initial point's."""
        start = self.initial_point
        apart = set() if start is None else {id(p) for p in start.parameters()}
        return [p for p in self.parameters() if id(p) not in apart]
