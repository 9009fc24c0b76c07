"""What one evaluation proves of a vote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from solvers import Anderson, Equilibrium, Solver
from solvers.solver import Evaluated

from ..cells import FixedCell, ProvableCell
from ..cells.bounds import Bounds, rounding
from ..cells.functional import FunctionalBound
from ..models import ImageModel
from ..models.equilibrium import SPLITTING

ROUNDING = 1e-9
"""Share of the largest bias that is added to every radius, for sums in double precision."""

LARGE = 2.0
"""||W|| from which a splitting iterates: up to 1.9 it took 1 to 1.6 times the evaluations of
Anderson, from 2.4 on 0.9 times and less, and from 3.2 on Anderson's fixed-point steps run away."""
PLAIN = Anderson(rtol=1e-5, max_steps=200, delay=4), Anderson(rtol=1e-2)
SPLIT = replace(SPLITTING, rtol=1e-5, max_steps=200), replace(SPLITTING, rtol=1e-2, max_steps=200)


def iteration(bounds: Bounds) -> tuple[Solver[Equilibrium, Any], Solver[Equilibrium, Any]]:
    """Return how to iterate, by ||W||: until votes are proven, and to select a class.

    Selection only proposes a class, which the estimation then bounds: no proof is needed there.
    """
    return PLAIN if bounds.norm < LARGE else SPLIT


@dataclass(frozen=True)
class Proof:
    """What is known of a model's logits from one evaluation of its cell.

    Arguments:
        bound: on the logits less the bias, as linear functions of the equilibrium.
        bias: of the head, (K,), in double precision.
        exact: the cell in double precision, with the same numbers for W.
    """

    bound: FunctionalBound
    bias: Tensor
    exact: FixedCell

    @classmethod
    def of(cls, model: ImageModel) -> Proof:
        """Compute the bounds of a model from its weights as they are.

        Arguments:
            model: its W must be a constant, `model.fixed()`, for a proof of one solve to hold for
                the next.

        Raises:
            ValueError: the model does not qualify, or its weights do not keep what their
                parametrisation promises.
        """
        weight, bias = model.linear_head()
        cell = model.layer.cell
        assert isinstance(cell, ProvableCell)
        return cls(FunctionalBound.of(cell, weight), bias, FixedCell(cell).double())

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits at a state in double precision, less what all of them share."""
        return z.flatten(1) @ self.bound.value.mT + self.bias

    def decision(self, dtype: torch.dtype) -> Callable[..., Tensor]:
        """Return what tells which samples are decided, (B,), see `judge`."""
        judge = self.judge(dtype)
        return lambda *given: judge(*given)[1]

    def judge(self, dtype: torch.dtype) -> Callable[..., tuple[Tensor, Tensor]]:
        """Return what tells samples' logits, and which are decided, for states of a precision.

        It takes the problem, the state and, where there are any, targets (B,). With a target: the
        vote is provably the target, as its logit exceeds all others, or provably not, as one
        other exceeds it. Without: the largest logit exceeds all others. The logits, (B, K), are
        those at the centre of what the equilibrium is confined to, and where a sample is decided
        the largest is the target's, or is not, or is that of the class, as is proven.
        """
        table = self.bound.sizes()
        offsets = self.bias[:, None] - self.bias
        slack = ROUNDING * self.bias.abs().max()
        products = self.bound.products(dtype)

        def judged(
            problem: Equilibrium, state: Evaluated, target: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            (x,) = problem.inputs
            centre = self.bound.center(state.z, state.fz, products)
            at, logits = centre.at, centre.at + self.bias
            eta = rounding(state.z, state.fz, x, self.bound.bounds)
            first = logits.argmax(1) if target is None else target
            radius = self.bound.radius(centre, eta, table[:, first]) + slack
            margin = at.gather(1, first[:, None]) - at + offsets[first]
            above = (margin > radius).scatter(1, first[:, None], True).all(1)
            return logits, above if target is None else above | (margin < -radius).any(1)

        return judged
