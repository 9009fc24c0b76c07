"""Where the solve of a noise sample starts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar, NamedTuple

from torch import Tensor

from solvers import Equilibrium, Evaluated, Solution
from solvers.warm import Anchor

from ..models import ImageModel


class Starter(NamedTuple):
    """Gives the starts of one image's noise samples.

    Arguments:
        begin: from the samples' problem, the layer's condition x, (B, ...), and where the solves of
            the batch before ended, if there was one, to their starts, (B, ...).
        evaluations: of the map, that a start takes a sample.
        free: from the samples' problem to what is known of each without an evaluation: z* of the
            clean image and f(z*; x). None where that takes one.
    """

    begin: Callable[[Equilibrium, Tensor, Tensor | None], Tensor]
    evaluations: int = 0
    free: Callable[[Equilibrium], Evaluated] | None = None


@dataclass(frozen=True)
class Start(ABC):
    """A choice of start; `at` makes its `Starter` for an image.

    Attributes:
        follows_image: whether the start depends on the clean image. It may then decide which of
            several equilibria is found, and a network of so many steps from there is not one
            fixed base classifier.
        chained: whether it depends on the batches before, so that the votes depend on the batch
            size.
    """

    follows_image: ClassVar[bool] = True
    chained: ClassVar[bool] = False

    @abstractmethod
    def at(self, model: ImageModel, problem: Equilibrium, clean: Solution[Tensor]) -> Starter:
        """Return the starts for an image, given its own problem and solution (one sample)."""


@dataclass(frozen=True)
class Cold(Start):
    """Start every solve where the model does: at zero, or the shared learnable initial point."""

    follows_image: ClassVar[bool] = False

    def at(self, model: ImageModel, problem: Equilibrium, clean: Solution[Tensor]) -> Starter:
        return Starter(lambda problem, x, last: model.start(x))


@dataclass(frozen=True)
class Clean(Start):
    """Start at the clean image's equilibrium z*: the zero-order predictor.

    For a cell relu(W z + x), start a Picard step on, at relu(W z* + x): the product W z* is one
    for all samples.
    """

    def at(self, model: ImageModel, problem: Equilibrium, clean: Solution[Tensor]) -> Starter:
        anchor = Anchor.at(problem, clean)
        if anchor.product is None:
            return Starter(lambda problem, x, last: anchor.constant(len(x)))
        return Starter(lambda problem, x, last: anchor.image(problem), free=anchor.evaluated)


@dataclass(frozen=True)
class Tangent(Start):
    """Start at the first-order predictor from the clean image's equilibrium.

    One evaluation (none for a cell relu(W z + x)) and one product with a matrix that all samples
    share; see `Anchor.tangent`. The matrix costs about as much as an evaluation of each of n
    samples, n numbers a state: until so many have started, they start as `Clean` has it.
    """

    def at(self, model: ImageModel, problem: Equilibrium, clean: Solution[Tensor]) -> Starter:
        anchor = Anchor.at(problem, clean)
        inverse = cache(partial(anchor.tangential, problem))
        size, seen = anchor.value.numel(), 0

        def begin(problem: Equilibrium, x: Tensor, last: Tensor | None) -> Tensor:
            nonlocal seen
            seen += len(x)
            return anchor.image(problem) if seen <= size else inverse().tangent(problem)

        free = None if anchor.product is None else anchor.evaluated
        return Starter(begin, anchor.evaluations, free)


@dataclass(frozen=True)
class Serial(Start):
    """Start each batch where the batch before it ended; the first at the clean equilibrium.

    References:
        W. Gao, Z. Hou, H. Xu, X. Liu (2024), Certified robustness for deep equilibrium models via
        serialized random smoothing.
    """

    chained: ClassVar[bool] = True

    def at(self, model: ImageModel, problem: Equilibrium, clean: Solution[Tensor]) -> Starter:
        anchor = Anchor.at(problem, clean)

        def begin(problem: Equilibrium, x: Tensor, last: Tensor | None) -> Tensor:
            z = anchor.constant(len(x))
            if last is not None:
                z[: len(last)] = last[: len(z)]
            return z

        return Starter(begin)


@dataclass(frozen=True)
class Along(Start):
    """Start at the state that the clean image's own path had at a time (t or lambda).

    Arguments:
        time: from 0, where the path begins.
    """

    time: float = 0.8

    def __post_init__(self) -> None:
        if not self.time >= 0:
            raise ValueError(f"the time of a stored state must be 0 or more; got {self.time}.")

    def at(self, model: ImageModel, problem: Equilibrium, clean: Solution[Tensor]) -> Starter:
        anchor = Anchor.at(problem, clean)
        return Starter(lambda problem, x, last: anchor.along(self.time, len(x)))
