"""What every image classifier of this library is: stem, implicit layer, head, start."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import torch
from torch import Tensor, nn

from solvers import ODE, Adjoint, Equilibrium, Gradient, RungeKutta, Solution, Solver, Status

from ..cells import Bounds, FixedCell, ProvableCell
from ..finite import finite_rows, put_back, rows_of, spread_rows
from ..layers import Layer
from ..lipschitz import LipschitzBound, certify_lipschitz
from ..pretrained import Pretrained
from ..regularization import relative_residual
from ..twin import twin
from .blocks import AffineHead, Normalize, check_shape
from .bounded import PLAIN, READS, departs, network_of, provable, touched
from .start import StartPoint

Statistic = float | Sequence[float]
M = TypeVar("M", bound="ImageModel")
P = ParamSpec("P")


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
        x: what the stem made of the images, (B, ...), for the loss of the start.
    """

    logits: Tensor
    solution: Solution[Tensor]
    condition: tuple[Tensor, ...]
    x: Tensor


def configured(init: Callable[Concatenate[M, P], None]) -> Callable[Concatenate[M, P], None]:
    """Return a model's constructor that keeps its arguments in `config`, for a checkpoint.

    Solver and gradient are left out; what the constructor itself puts into `config` stays.

    Arguments:
        init: the constructor, `__init__(self, ...)`.
    """
    signature = inspect.signature(init)

    @wraps(init)
    def __init__(self: M, *args: P.args, **kwargs: P.kwargs) -> None:
        init(self, *args, **kwargs)
        given = signature.bind(self, *args, **kwargs)
        given.apply_defaults()
        model, *settings = given.arguments.items()
        plain = {k: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else v
                 for k, v in settings if k not in ("solver", "gradient")}  # fmt: skip
        self.config = {**plain, **self.config}

    return cast(Callable[Concatenate[M, P], None], __init__)


class ImageModel(Pretrained, nn.Module):
    """Classify images: normalise, stem, implicit layer, head.

    `model(images)` returns logits and acts on samples that did not converge by `on_failure`;
    `model.solve(images)` returns a `ModelOutput` and leaves that to the caller. Any parts that fit
    together make a model; those of this package are such compositions, and a checkpoint can rebuild
    what has a constructor of its own (see `configured`).

    Arguments:
        shape: (C, H, W) of the images, which are floats in [0, 1].
        stem: takes normalised images (B, C, H, W) to the layer's condition x.
        layer: takes x to its answer z.
        head: takes z to the logits, (B, num_classes).
        start: the learnable start of the solves, or None where the cell gives one.
        mean: of the images, one number or one a channel; applied inside the model.
        std: likewise.

    Attributes:
        config: the constructor's arguments without solver and gradient, JSON-able:
            `type(model)(**model.config)` builds the same model with fresh weights.

    Example:
        >>> layer = ImplicitLayer(ConvCell(8, groups=2))
        >>> stem, head = nn.Conv2d(1, 8, 3, padding=1), LinearHead(8, 2, 10)
        >>> model = ImageModel((1, 8, 8), stem, layer, head)
        >>> model(torch.rand(4, 1, 8, 8)).shape
        torch.Size([4, 10])
    """

    def __init__(
        self,
        shape: Sequence[int],
        stem: nn.Module,
        layer: Layer,
        head: nn.Module,
        start: StartPoint | None = None,
        *,
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
    ) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        self.config: dict[str, Any] = {}
        self.normalize = Normalize(shape[0], mean, std)
        self.stem = stem
        self.head = head
        self.layer = layer
        self.initial_point = start

    @property
    def solver(self) -> Solver[Any, Any]:
        """The path to the answer: the layer's."""
        return self.layer.solver

    def condition(self, images: Tensor) -> Tensor:
        """Return what the layer is conditioned on, (B, ...)."""
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
            zero: Tensor = self.layer.initial(x)
            return zero
        start: Tensor = self.initial_point(x.detach())
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
        return ModelOutput(self.head(solution.value), solution, condition, x)

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
            return ModelOutput(logits, none, found.condition, found.x)
        found = self.solve(images.index_select(0, rows), rows_of(z0, rows), record=record)
        return ModelOutput(
            spread_rows(found.logits, rows, batch, float("nan")),
            put_back(found.solution, rows, batch, z0),
            tuple(spread_rows(part, rows, batch, 0) for part in found.condition),
            spread_rows(found.x, rows, batch, 0),
        )

    def residual(self, output: ModelOutput) -> Tensor:
        """Return how far each answer is from an equilibrium, whatever solver found it, (B,):

        ||f(z) - z|| / ||f(z)||, and NaN where the layer's equation has none. Of a stack of layers
        it is the largest of its equilibria, and 0 where there is none.
        """
        z = output.solution.value
        if not self.layer.one_equation:
            return output.solution.residual
        if self.layer.rest_point:
            return relative_residual(self.layer.cell, z, *output.condition)
        return torch.full_like(output.solution.residual, float("nan"))

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
        name, cell = type(self).__name__, self.layer.cell
        if not self.layer.rest_point:
            return f"{name} follows a flow without a rest point, which has no equilibrium."
        if provable(self.layer) is None:
            kind = type(cell if type(self.layer) in PLAIN else self.layer).__name__
            return f"nothing bounds how far {name}'s solver is from the equilibrium of its {kind}."
        own = departs(self.head, "affine", READS) or touched(self.head)
        if own or not isinstance(self.head, AffineHead):
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
        return self._proving()[0].bounds()

    def linear_head(self) -> tuple[Tensor, Tensor]:
        """Return C (num_classes, n) and d of logits = C z* + d, z* flattened; double precision.

        Raises:
            ValueError: the model is not `verifiable`.
        """
        cell, head = self._proving()
        return head.affine(cell.shape)

    def fixed(self: M) -> M:
        """Return this model with its cell's W as a constant, so that no solve computes it again.

        What is proved of that W then holds for every solve, to the bit; the W of a cell with
        parameters may have other last digits on another machine or number of threads.

        Raises:
            ValueError: the model is not `verifiable`.
        """
        other = twin(self)
        other.layer.cell = FixedCell(self._proving()[0])
        return other

    def network(self) -> nn.Sequential:
        """Return the map from images to logits, with an exact equilibrium, in double precision.

        It is made of modules that `homotopy_deq.lipschitz` knows, of weights that are copies. The
        first one normalises, so that constants and radii are in units of images in [0, 1]. A part
        that is not known is among them as it is, for `homotopy_deq.lipschitz` to refuse by name. A
        model of other parts returns its own.

        Raises:
            ValueError: a hook, or a method of another class, may change what the parts return.
        """
        return network_of(self)

    def lipschitz(self) -> LipschitzBound:
        """Return a proved 2-norm Lipschitz constant from images in [0, 1] to logits, and its parts.

        Raises:
            ValueError: a part has none that is known here, or the model is training; says which.
        """
        return certify_lipschitz(self.network())

    def _proving(self) -> tuple[ProvableCell, AffineHead]:
        cell, head = self.layer.cell, self.head
        if self.reason is not None or not (
            isinstance(cell, ProvableCell) and isinstance(head, AffineHead)
        ):
            raise ValueError(self.reason)
        return cell, head

    def task_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the task trains: all but the initial point's."""
        start = self.initial_point
        apart = set() if start is None else {id(p) for p in start.parameters()}
        return [p for p in self.parameters() if id(p) not in apart]
