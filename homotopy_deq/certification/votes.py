"""How the noise samples of one image are solved, and what each of them votes for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from solvers import Equilibrium, InitialValue, Solution, Solver, Status, solve

from ..layers import FlowLayer
from ..models import ImageModel, ModelOutput
from .requirements import check_independent, looked, probes
from .starts import Along, Cold, Start

UNDECIDED = -1
WIDEST, LEAST = 2**17, 64
"""Numbers of the condition, and samples at least, that the stem makes at a time on a processor: its
own tensors are wider, and where new memory is taken from the system for them at each call, as of
2,000 digits, that costs 3 times the arithmetic."""
COLD = "started cold, as the clean image was not solved"
Classifier = Callable[[Tensor], Tensor]
"""Maps images, (B, C, H, W), to logits, (B, classes): a model of this library or of any other."""
Target = int | Tensor | None
"""The class that votes are about, of all samples or of each, (B,); None for any."""
S = TypeVar("S", bound="Session")


class Session:
    """The noise samples of one image, each decided by the classifier as a whole.

    Votes are the class of each sample, or -1 for none, int64 (B,). An evaluation is one of the
    classifier.

    Arguments:
        classifier: in eval mode.
        image: (C, H, W) in [0, 1].

    Attributes:
        classes: how many there are.
        evaluations: that the image and all its votes have taken.
        note: what is to be said of all that follows.
        alone: whether its samples are solved beside those of no other image.
        members: of a session of several images, see `together`: those of each.
        owner: and whose each of its samples is, int64 (B,), ascending.

    Raises:
        ValueError: the classifier cannot take the image, its logits are not finite, or those of
            images near it depend on what they are computed beside, or on chance.
    """

    note = ""
    evaluations = 1
    alone = False
    members: Sequence[Session] = ()
    owner: Tensor

    def __init__(self, classifier: Classifier, image: Tensor) -> None:
        self.classifier, self.image = classifier, image
        self._look(looked(classifier, image[None]))
        near = probes(image.shape, image)
        check_independent(lambda rows: [classifier(near[rows])])

    def _look(self, logits: object) -> None:
        given = f"a {type(logits).__name__}"
        if isinstance(logits, Tensor):
            given = f"{tuple(logits.shape)} of {logits.dtype}"
        if not (
            isinstance(logits, Tensor)
            and logits.is_floating_point()
            and logits.dim() == 2
            and len(logits) == 1
            and logits.shape[1] > 1
        ):
            raise ValueError(
                "a classifier maps images (B, C, H, W) to logits (B, classes), floating point, of "
                f"two classes or more; it made {given} of one image."
            )
        if not bool(torch.isfinite(logits).all()):
            raise ValueError(
                "the model's logits are not finite on the clean image: nothing can be certified."
            )
        self.classes = logits.shape[1]

    def full(self, images: Tensor) -> np.ndarray:
        """Vote by the classifier's own forward pass, from its own start; -1 where it fails."""
        logits = self.classifier(images)
        every = torch.ones(len(images), dtype=torch.int64, device=logits.device)
        return self.cast(logits, every.bool(), every)

    def cast(
        self, logits: Tensor, usable: Tensor, evals: Tensor, rows: Tensor | None = None
    ) -> np.ndarray:
        """Vote for the largest logit of each usable sample whose logits are finite.

        Arguments:
            logits: (B, classes).
            usable: whether a sample's logits may count, (B,).
            evals: what each took, (B,).
            rows: which samples of a session of several images these are; None for all.
        """
        for session, spent in self.each(evals, rows):
            session.evaluations += spent
        usable = usable & torch.isfinite(logits).all(1)
        labels: np.ndarray = torch.where(usable, logits.argmax(1), UNDECIDED).cpu().numpy()
        return labels

    def each(self, counts: Tensor, rows: Tensor | None = None) -> Iterator[tuple[Session, int]]:
        """Yield the session of each image, with the sum of a count over its samples, see `cast`."""
        if not self.members:
            yield self, int(counts.sum())
            return
        owner = self.owner if rows is None else self.owner[rows]
        sums = counts.new_zeros(len(self.members)).index_add(0, owner, counts)
        yield from zip(self.members, sums.tolist(), strict=True)


def together(sessions: Sequence[S], counts: Sequence[int]) -> S:
    """Return a session of samples of several images, so many of each in turn.

    Each vote is that of its own image's session, from whose start it is solved and which counts
    its evaluations.

    Arguments:
        sessions: of one model, prepared alike, none of them `alone`.
        counts: samples of each.
    """
    if len(sessions) == 1:
        return sessions[0]
    joint = copy(sessions[0])
    joint.members = sessions
    owner = torch.arange(len(sessions)).repeat_interleave(torch.tensor(counts))
    joint.owner = owner.to(sessions[0].image.device)
    return joint


def outputs(model: ImageModel, images: Tensor) -> Iterator[ModelOutput]:
    """Yield what a model makes of each of some images, which it is given together."""
    whole = looked(model.solve, images)
    found = whole.solution
    for k in range(len(images)):
        own = slice(k, k + 1)
        each = {
            f: getattr(found, f)[own] for f in ("value", "status", "steps", "evals", "residual")
        }
        condition = tuple(part[own] for part in whole.condition)
        yield ModelOutput(whole.logits[own], Solution(**each), condition, whole.x[own])


class ModelSession(Session):
    """The noise samples of one image, each solved by a model's own forward pass.

    Arguments:
        model: in eval mode.
        image: (C, H, W) in [0, 1].
        clean: what the model made of it, if it was solved beside others.
        record: keep the path of its solve.

    Raises:
        ValueError: the logits of the clean image are not finite.
    """

    def __init__(
        self,
        model: ImageModel,
        image: Tensor,
        clean: ModelOutput | None = None,
        *,
        record: bool = False,
    ) -> None:
        self.model, self.image = model, image
        self.clean = clean or looked(partial(model.solve, record=record), image[None])
        self._look(self.clean.logits)
        self.evaluations = int(self.clean.solution.evals.sum())

    def full(self, images: Tensor) -> np.ndarray:
        output = self.model.solve(images)
        return self.cast(output.logits, output.solution.converged, output.solution.evals)


class LayerSession(ModelSession):
    """Solve the noise samples of one image from a start that the clean image may have given.

    Where the solve of the clean image fails, no start follows from it, and its noise samples
    start cold, which is as sound.

    Arguments:
        model: in eval mode.
        image: (C, H, W) in [0, 1].
        start: where the solves begin.
        clean: as in `ModelSession`; of no use where a start is on the path.

    Raises:
        ValueError: the logits of the clean image are not finite.
    """

    def __init__(
        self, model: ImageModel, image: Tensor, start: Start, clean: ModelOutput | None = None
    ) -> None:
        path = isinstance(start, Along)
        super().__init__(model, image, None if path else clean, record=path)
        output, self.start = self.clean, start
        if not bool(output.solution.converged.all()):
            self.start = Cold()
            self.note = COLD if start.follows_image else ""
        chained = self.start.chained or isinstance(self.start, Along)
        self.alone = chained or bool(self.note)  # its start is not that of other images
        problem = model.layer.equation(output.condition)
        self.starter = self.start.at(model, problem, output.solution)
        self.last: Tensor | None = None
        # W z* of the anchor, where it has one, is one more.
        self.evaluations += self.start.follows_image

    def condition(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the layer's condition x, (B, ...), and what the cell is iterated with."""
        if images.is_cuda:
            x = self.model.condition(images)
        else:
            rows = max(LEAST, WIDEST // self.clean.x[0].numel())
            x = torch.cat([self.model.condition(some) for some in images.split(rows)])  # type: ignore[no-untyped-call]
        return x, self.model.layer.condition(x)

    def walk(self, images: Tensor, solver: Solver[Any, Any]) -> Solution[Tensor]:
        """Solve from the session's start; the evaluations that the start took are counted."""
        x, condition = self.condition(images)
        layer = self.model.layer
        problem = layer.equation(condition)
        if issubclass(solver.answers, InitialValue):
            assert isinstance(layer, FlowLayer)
            begin = self.start.time if isinstance(self.start, Along) else 0.0
            return solve(layer.flow(problem, begin), solver, self.begin(problem, x))
        return self.solve(problem, solver, x)

    def begin(self, problem: Equilibrium, x: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return where the solves of samples start, (B, ...).

        Arguments:
            problem: of these samples.
            x: the layer's condition, (B, ...).
            rows: which of the session's these are; None for all.
        """
        if not self.members:
            return self.starter.begin(problem, x, self.last)
        return torch.cat(
            [
                session.starter.begin(problem.rows(own), x[own], None)
                for session, own in self.shares(rows)
            ]
        )

    def shares(self, rows: Tensor | None = None) -> Iterator[tuple[LayerSession, Tensor]]:
        """Yield the session of each image that has some of the rows, and the places of its own."""
        owner = self.owner if rows is None else self.owner[rows]
        counts = torch.bincount(owner, minlength=len(self.members)).tolist()
        places = torch.arange(len(owner), device=owner.device).split(counts)  # type: ignore[no-untyped-call]
        for session, own in zip(self.members, places, strict=True):
            if len(own):
                assert isinstance(session, LayerSession)
                yield session, own

    def solve(
        self,
        problem: Equilibrium,
        solver: Solver[Equilibrium, Any],
        x: Tensor,
        rows: Tensor | None = None,
    ) -> Solution[Tensor]:
        """Solve an equilibrium from the session's start, see `begin`."""
        found = solve(problem, solver, self.begin(problem, x, rows))
        if self.start.chained:
            finite = (found.status != Status.NONFINITE).view(-1, *(1,) * (found.value.dim() - 1))
            self.last = torch.where(finite, found.value, 0)
        return replace(found, evals=found.evals + self.starter.evaluations)

    def vote(self, images: Tensor, solver: Solver[Any, Any]) -> np.ndarray:
        """Vote at the end of `walk`, be it converged or stopped at max_steps; -1 where it failed.

        Arguments:
            images: (B, C, H, W).
            solver: of the layer's equation.
        """
        found = self.walk(images, solver)
        usable = found.converged | (found.status == Status.MAX_STEPS)
        return self.cast(self.model.head(found.value), usable, found.evals)
