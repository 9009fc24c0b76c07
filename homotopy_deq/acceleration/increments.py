"""Increments in half precision around an anchor in single precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from solvers import Equilibrium, Picard, Solver, Status
from solvers.delta import Entries
from solvers.delta.evaluate import updating
from solvers.delta.together import Limit
from solvers.driver import run
from solvers.norms import norm, relative
from solvers.solver import Evaluated, named, residual_norm, start
from solvers.structure import Cached
from solvers.until import Until

from .products import Convolution, DenseKernel, DenseMatrix, Product

SHARE = 2.0**-5
"""8 bits of W e leave about 2^-8 ||e||, and ||e|| may be many times the residual at the anchor."""
LAST = 0.9
"""The share of the tolerance that the last increment aims at."""
NEVER = 1e-30
"""A tolerance that nothing meets: the solver around an anchor is stopped from outside."""
ALL = Limit(0.0, Entries())


@dataclass(frozen=True)
class _HalfMatrix(DenseMatrix):
    low: Tensor
    rounds: ClassVar[bool] = True

    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        change = (reference - before).to(self.low.dtype)
        return product + F.linear(change, self.low), self.multiply_adds(before)


@dataclass(frozen=True)
class _HalfKernel(DenseKernel):
    low: Convolution
    rounds: ClassVar[bool] = True

    def moved(
        self, product: Tensor, before: Tensor, reference: Tensor, active: Tensor | None = None
    ) -> tuple[Tensor, int]:
        new = product + self.low((reference - before).to(self.low.weight.dtype))
        return new, self.multiply_adds(before)


@dataclass(frozen=True)
class Half:
    """Add the product with a change in half precision to one in the precision of the weights.

    Arguments:
        dtype: of the product with the change.
    """

    dtype: torch.dtype = torch.bfloat16

    def linear(self, weight: Tensor) -> Product:
        """Return the product with a matrix (m, n)."""
        return _HalfMatrix(weight, weight.to(self.dtype))

    def convolution(self, convolution: Convolution) -> Product:
        """Return the product with the kernels of a convolution."""
        low = replace(convolution, weight=convolution.weight.to(self.dtype))
        return _HalfKernel(convolution, low)


@dataclass(frozen=True)
class AnchoredState(Evaluated):
    """Beside z and f(z): what the map keeps of its evaluation at z."""

    anchor: Cached
    evals: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class Anchored(Solver[Equilibrium, AnchoredState]):
    """Solve for the increment e around an anchor z, move the anchor there, and repeat:

        y = W z + b,    e = phi(y + W e) - z,    z <- z + e.

    y is in the precision of the state, and W e in that of the map's products with changes: half
    of it with `Half`. That rounding shrinks with e, so the answer is as exact as without it.
    CONVERGED is said of the residual of the user's own map at an anchor. `Solution.steps` counts
    the anchors, `Solution.evals` all evaluations.

    Arguments:
        inner: the solver around an anchor; its tolerance and max_steps are chosen here.
        share: what it leaves of the residual at the anchor, in (0, 1).
        inner_steps: its steps at most, as rounding may let it stall above that share.

    Raises:
        ValueError: the map brings no products up to date, as that of `delta` does.
    """

    answers: ClassVar[type[Equilibrium]] = Equilibrium
    max_steps: int = field(default=30, kw_only=True)
    inner: Solver[Equilibrium, Any] = Picard()
    share: float = SHARE
    inner_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        inner: object = self.inner
        if not isinstance(inner, Solver) or not issubclass(Equilibrium, inner.answers):
            raise TypeError(f"Anchored takes a solver of an Equilibrium; got {named(inner)}.")
        if not 0 < self.share < 1:
            raise ValueError(f"share must be in (0, 1); got {self.share}.")

    @property
    def compacts_below(self) -> float:
        return 0.5  # what the map keeps is copied

    def init(self, problem: Equilibrium, z0: Tensor) -> AnchoredState:
        return self._at(problem, z0, torch.zeros(len(z0), dtype=torch.int64, device=z0.device))

    def step(self, problem: Equilibrium, state: AnchoredState) -> AnchoredState:
        update, given, last = _update(problem), len(problem.inputs), 1 + len(problem.inputs)
        least = LAST * self.rtol * norm(state.fz)
        enough = torch.maximum(self.share * residual_norm(state), least)

        def around(z: Tensor, *rest: Tensor) -> Tensor:
            anchor = Cached(z, rest[last:], 0, True)
            return update(anchor, ALL, z, *rest[:given]).image

        def near(around: Equilibrium, state: Evaluated) -> Tensor:
            return residual_norm(state) <= around.inputs[given]

        inputs = (*problem.inputs, enough, *state.anchor.parts)
        inner = replace(self.inner, rtol=NEVER, atol=0.0, max_steps=self.inner_steps)
        found = run(Equilibrium(around, inputs, rowwise=True), Until(inner, near), state.fz)
        new = self._at(problem, found.value, state.evals + found.evals)
        lost = found.status == Status.NONFINITE
        return replace(new, residual=new.residual.masked_fill(lost, math.inf))

    def _at(self, problem: Equilibrium, z: Tensor, evals: Tensor) -> AnchoredState:
        """Evaluate at an anchor, and where that looks like an answer by the user's own map, too."""
        anchor = _update(problem)(None, ALL, z, *problem.inputs)
        state = AnchoredState(
            z, relative(anchor.image - z, anchor.image), anchor.image, anchor, evals=evals + 1
        )
        if not bool((state.residual <= self.tolerance(state)).any()):
            return state
        there = start(problem, z)
        return replace(state, residual=there.residual, fz=there.fz, evals=state.evals + 1)


def _update(problem: Equilibrium) -> Callable[..., Cached]:
    _, update = updating(problem)
    if update is None:
        raise ValueError(
            "Anchored needs a map that brings its products up to date, in the precision of the "
            "state: solve delta(layer, solver=Anchored(), products=Half()), without autocast."
        )
    return update
