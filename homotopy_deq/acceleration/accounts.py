"""Where the multiply-adds of a delta solve went, and how far off it may rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from solvers import Solution, solve

from ..layers import Layer
from ..models.image import ImageModel
from .delta import DeltaLayer
from .updating import Updating


def layered_bound(contraction: float, skipped: Sequence[tuple[float, float]]) -> float:
    """Return how far a solve may rest from the exact answer, from what its layers skip:

        (1 / (1 - l)) sum_i G_i ||e_i||.

    Arguments:
        contraction: l < 1 of f, in some norm.
        skipped: of each layer, its gain G_i, a Lipschitz constant from its input to f's value, and
            a bound of what it skips, ||e_i||: tau_i sqrt(n_i) in the 2-norm, tau_i in the maximum
            norm. The state counts as a layer, with the gain l.
    """
    if not 0 <= contraction < 1:
        raise ValueError(f"contraction must be in [0, 1); got {contraction}.")
    return sum(gain * size for gain, size in skipped) / (1 - contraction)


@dataclass(frozen=True)
class LayerWork:
    """What one layer took during a solve, and what it takes densely.

    Arguments:
        name: of the layer.
        dense: multiply-adds of one dense evaluation of one sample.
        hoisted: no step changes its input: densely it is computed once a solve.
        spent: multiply-adds of the solve, all samples together, dense evaluations included.
    """

    name: str
    dense: int
    hoisted: bool
    spent: int


@dataclass(frozen=True)
class Account:
    """The multiply-adds of a solve, by layer.

    Arguments:
        solution: of the solve.
        layers: in the order of their calls.
        samples: in the batch.
        rows: evaluations of all samples together.
    """

    solution: Solution[Any]
    layers: tuple[LayerWork, ...]
    samples: int
    rows: int

    def dense(self, evaluations: float | None = None) -> float:
        """Return what so many dense evaluations of every sample take, what is hoisted once.

        Arguments:
            evaluations: a sample; by default as many as the solve made.
        """
        rows = self.rows if evaluations is None else evaluations * self.samples
        return sum(each.dense * (self.samples if each.hoisted else rows) for each in self.layers)

    @property
    def spent(self) -> int:
        """What the solve took."""
        return sum(each.spent for each in self.layers)


def account(
    target: Layer | ImageModel, x: Tensor, z0: Tensor | Solution[Tensor] | None = None
) -> Account:
    """Solve without gradients, and return where the multiply-adds went.

    Arguments:
        target: what `delta` or `tune` returned, a layer or a model.
        x: the layer's condition, (B, ...), or the model's images, (B, C, H, W).
        z0: the start; by default the target's own.

    Raises:
        TypeError: the target was not made by `delta`.
        ValueError: x is empty, or each evaluation is dense: the rows are coupled, or batch
            statistics of the cell are in training.
    """
    layer = target.layer if isinstance(target, ImageModel) else target
    if not isinstance(layer, DeltaLayer):
        raise TypeError(
            f"account takes what delta or tune returned; got a {type(target).__name__} whose "
            "products are dense."
        )
    if len(x) == 0:
        raise ValueError("nothing is accounted of an empty batch; x needs a sample at least.")
    with torch.no_grad():
        if isinstance(target, ImageModel):
            x = target.condition(x)
            z0 = target.start(x) if z0 is None else z0
        problem = layer.problem(layer.condition(x))
        start = layer.initial(x) if z0 is None else z0
        solution = solve(problem, layer.solver, start)
    updating = problem.map
    if not isinstance(updating, Updating):
        raise ValueError(
            "nothing is accounted of a layer that is evaluated densely: of coupled rows, and of "
            "BatchNorm in training; call eval()."
        )
    plan = updating.plan(solution.value, *problem.inputs)
    layers = tuple(
        LayerWork(name, each, name in plan.hoisted, updating.spent[name])
        for name, each in plan.work.items()
    )
    return Account(solution, layers, len(solution.value), updating.rows)
