"""Image classifiers whose Lipschitz constant is proved: explicit stacks, and equilibria."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from solvers import PeacemanRachford, Solver, Unroll

from ..layers import OnFailure
from ..lipschitz import (
    AOL,
    CPL,
    SLL,
    EquilibriumNetwork,
    LBENCell,
    Lift,
    NormalizedLinear,
    Sandwich,
    to_lben,
    to_vanilla,
)
from ..lipschitz.blocks import Grid
from .blocks import check_shape
from .bounded import check_own, normalized, sequential
from .image import ImageModel, Statistic, configured
from .stack import Stack

STEP = 1.0
"""Of Peaceman and Rachford's splitting: with it W of an explicit network ends in finite steps."""


class BoundedModel(ImageModel):
    """Classify images by layers with a Lipschitz constant of 1 and a head of rows of norm 1.

    Pixels are divided by one number, so that the constant from images in [0, 1] to what the head
    reads is 1 / std, and the logits' differences are bounded pair by pair.

    Arguments:
        shape: (C, H, W) of the images, which are floats in [0, 1].
        body: maps normalised images (B, C, H, W) to vectors (B, size).
        size: numbers of such a vector.
        num_classes: number of logits.
        mean: of the images, one number or one a channel; applied inside the model.
        std: likewise, of which the largest counts.
        on_failure: what `model(images)` does about samples that did not converge.
    """

    layer: Stack

    def __init__(
        self,
        shape: Sequence[int],
        body: nn.Sequential,
        size: int,
        num_classes: int,
        *,
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
        on_failure: OnFailure = "warn",
    ) -> None:
        widest = max(std) if isinstance(std, Sequence) else std
        layer, head = Stack(body, size, on_failure=on_failure), NormalizedLinear(size, num_classes)
        super().__init__(shape, nn.Identity(), layer, head, mean=mean, std=widest)

    @property
    def solver(self) -> Solver[Any, Any]:
        """The path to the last of its equilibria; the stack's where there is none."""
        found = self.layer.implicit
        return found[-1].layer.solver if found else self.layer.solver

    def network(self) -> nn.Sequential:
        """Return the map of images in [0, 1] as in `ImageModel.network`, its layers one by one."""
        check_own(self)
        layer = self.layer.body if type(self.layer) is Stack else self.layer
        return sequential(
            {"normalize": normalized(self.normalize), "body": layer, "head": self.head}
        )

    def to_vanilla(self) -> nn.Module:
        """Return modules of torch.nn with equal logits; see `homotopy_deq.lipschitz.to_vanilla`."""
        return to_vanilla(self.network()).to(next(self.head.parameters()))


class ExplicitNetwork(BoundedModel):
    """Circular convolutions, sums over patches, and dense layers, all of one `kind`.

    Arguments:
        shape: see `BoundedModel`.
        num_classes: see `BoundedModel`.
        channels: of the convolutions.
        depth: convolutional layers.
        kernel: side of their kernels, odd; 0 or None for dense layers alone, of all pixels.
        patch: side of the patches that are summed behind them (and divided by it, which keeps the
            constant at 1).
        features: neurons of a dense layer.
        dense_depth: dense layers.
        mean: see `BoundedModel`.
        std: see `BoundedModel`.
        on_failure: see `BoundedModel`; only an overflow is a failure here.

    References:
        A. Havens et al. (2023), Exploiting connections between Lipschitz structures for certifiably
        robust deep equilibrium models: the sizes by default.
    """

    kind: ClassVar[type[Any]]

    @configured
    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        channels: int = 8,
        depth: int = 4,
        kernel: int | None = 5,
        patch: int = 4,
        features: int = 512,
        dense_depth: int = 2,
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
        on_failure: OnFailure = "warn",
    ) -> None:
        kind, keeps = type(self).kind, issubclass(type(self).kind, CPL | SLL)
        grid, size = _sizes(shape, channels, kernel, patch, features, depth, dense_depth)
        parts: list[nn.Module] = []
        if kernel:
            image = {"grid": grid, "kernel": kernel}
            parts = [Lift(shape[0], channels, grid=grid)] if keeps else []
            for place in range(depth):
                inputs = channels if keeps or place else shape[0]
                parts.append(kind(inputs, channels, **image))
            parts.append(_pool(patch))
        parts.append(nn.Flatten())
        for _ in range(dense_depth):
            parts.append(kind(size, features))
            size = size if keeps else features
        super().__init__(
            shape, nn.Sequential(*parts), size, num_classes,
            mean=mean, std=std, on_failure=on_failure,
        )  # fmt: skip

    def to_lben(self) -> LBENNetwork:
        """Return the model with the same logits whose layers are equilibria, in eval mode.

        The map is the same to rounding, in this model's precision; the equilibria's parameters
        then satisfy the inequality whatever they become, so that they can be trained further.
        """
        body = to_lben(copy.deepcopy(self.layer.body).double().eval())
        found = [part for part in body.modules() if isinstance(part, EquilibriumNetwork)]
        sizes = [[c.inputs, c.hidden, c.outputs] for c in (part.cell for part in found)]
        made = LBENNetwork(**self.config, sizes=sizes).to(next(self.head.parameters()))
        for mine, theirs in zip(made.layer.implicit, found, strict=True):
            mine.cell.load_state_dict(theirs.cell.state_dict())
        made.head.load_state_dict(self.head.state_dict())
        return made.eval()


class CPLNetwork(ExplicitNetwork):
    """Classify by `CPL` layers; arguments as in `ExplicitNetwork`."""

    kind = CPL


class SLLNetwork(ExplicitNetwork):
    """Classify by `SLL` layers; arguments as in `ExplicitNetwork`."""

    kind = SLL


class AOLNetwork(ExplicitNetwork):
    """Classify by `AOL` layers; arguments as in `ExplicitNetwork`."""

    kind = AOL


class SandwichNetwork(ExplicitNetwork):
    """Classify by `Sandwich` layers; arguments as in `ExplicitNetwork`."""

    kind = Sandwich


class LBENNetwork(BoundedModel):
    """Classify by equilibria: one of circular convolutions, sums over patches, and a dense one.

    They have as many neurons as the layers of an `ExplicitNetwork` of these sizes together.
    Arguments that are not named here are as there.

    Arguments:
        sizes: of equilibria that were made from explicit layers (`ExplicitNetwork.to_lben`):
            inputs, neurons and outputs of each, with kernels of the whole grid. None for new ones.
        on_failure: see `BoundedModel`.

    References:
        M. Revay, R. Wang, I. Manchester (2020), Lipschitz bounded equilibrium networks.
    """

    @configured
    def __init__(
        self,
        shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        *,
        channels: int = 8,
        depth: int = 4,
        kernel: int | None = 5,
        patch: int = 4,
        features: int = 512,
        dense_depth: int = 2,
        mean: Statistic = 0.0,
        std: Statistic = 1.0,
        sizes: Sequence[Sequence[int]] | None = None,
        on_failure: OnFailure = "warn",
    ) -> None:
        grid, size = _sizes(shape, channels, kernel, patch, features, depth, dense_depth)
        own = [[shape[0], depth * channels, channels]] if kernel else []
        own += [[size, dense_depth * features, features]] if dense_depth else []
        if sizes is not None and [len(each) for each in sizes] != [3] * len(own):
            wanted = f"{len(own)} of [inputs, neurons, outputs]"
            raise ValueError(f"sizes must be {wanted}; got {sizes}.")
        networks = [
            _equilibrium(each, grid if kernel and not place else None, kernel, sizes is not None)
            for place, each in enumerate(own if sizes is None else sizes)
        ]
        first = [networks.pop(0), _pool(patch)] if kernel else []
        parts = [*first, nn.Flatten(), *networks]
        super().__init__(
            shape, nn.Sequential(*parts), networks[0].cell.outputs if networks else size,
            num_classes, mean=mean, std=std, on_failure=on_failure,
        )  # fmt: skip


def _equilibrium(
    sizes: Sequence[int], grid: Grid, kernel: int | None, full: bool
) -> EquilibriumNetwork:
    inputs, hidden, outputs = sizes
    full_grid = {"kernel": 1, "epsilon": 0.0, "full": True}
    settings: dict[str, Any] = full_grid if full else {"kernel": kernel or 1}
    cell = LBENCell(inputs, hidden, outputs, grid=grid, **settings)
    return EquilibriumNetwork(cell, PeacemanRachford(step_size=STEP), Unroll())


def _sizes(
    shape: Sequence[int],
    channels: int,
    kernel: int | None,
    patch: int,
    features: int,
    depth: int,
    dense_depth: int,
) -> tuple[tuple[int, int], int]:
    """Return height and width, and how many numbers the first dense layer reads."""
    count, height, width = check_shape(shape)
    given = {"channels": channels, "patch": patch, "features": features, "depth": depth}
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}.")
    if dense_depth < 0 or not (kernel or dense_depth):
        raise ValueError(
            f"dense_depth must be 0 or more, and at least 1 without convolutions (kernel=0); got "
            f"{dense_depth}."
        )
    if not kernel:
        return (height, width), count * height * width
    if height % patch or width % patch:
        raise ValueError(f"patch must divide the images' {height} x {width} pixels; got {patch}.")
    return (height, width), channels * (height // patch) * (width // patch)


def _pool(patch: int) -> nn.Module:
    return nn.AvgPool2d(patch, divisor_override=patch)
