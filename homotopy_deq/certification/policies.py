"""Which votes count, and what lower bound follows from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from solvers import InitialValue

from ..models import ImageModel
from .evidence import Tally
from .proof import Proof, VerifiedSession
from .requirements import (
    check_count,
    check_fixed,
    check_flow,
    check_one_equation,
    check_rows,
    check_start,
    check_steps,
)
from .starts import Along, Cold, Serial, Start
from .votes import UNDECIDED, Classifier, LayerSession, ModelSession, Session

EXACT = "the classifier at the exact equilibrium"
SIZE = ", as it is computed at this batch size"
OWN = "the classifier at the answer of the model's own forward pass, from its own start" + SIZE

Redo = Callable[[np.ndarray], np.ndarray]
"""Solve the noise samples of the given indices again, in full and from the model's own start."""


@dataclass(frozen=True)
class Policy(ABC):
    """Votes of noise samples, and the object whose probability they bound.

    Arguments:
        start: where solves begin.

    Attributes:
        anytime: whether its votes are independent, or dominated by independent ones, so that
            sampling may stop at any time.
    """

    anytime: ClassVar[bool] = True

    start: Start = field(default_factory=Cold)

    @property
    @abstractmethod
    def certifies(self) -> str:
        """The base classifier that a certificate is about."""

    @property
    def proven(self) -> bool:
        """Whether a vote that counts is proven, whatever the sample is solved beside."""
        return False

    def check(self, model: Classifier) -> None:
        """Raise ValueError with the reason unless the policy is sound for the model."""
        if not isinstance(model, ImageModel):
            raise ValueError(
                f"policy {type(self).__name__} counts what a solver's iterates say, and a "
                f"{type(model).__name__} is no ImageModel: choose policy=Converged()."
            )
        check_one_equation(model, type(self).__name__)
        check_start(model, self.start)  # the cheap one first
        check_rows(model)

    def prepare(self, model: Any) -> Callable[[Tensor], Session]:
        """Return what begins an image, (C, H, W); work that all images share is done here."""
        ready = model.fixed() if model.verifiable else model  # W is then computed once
        return lambda image: LayerSession(ready, image, self.start)

    @abstractmethod
    def vote(self, session: Any, images: Tensor, target: int | None) -> np.ndarray:
        """Vote for each noise sample; with a target, a vote need only say whether it is that."""

    def propose(self, session: Any, images: Tensor) -> np.ndarray:
        """Vote to select a class: nothing rests on these votes being right."""
        return self.vote(session, images, None)

    def base(self, session: Any, images: Tensor) -> np.ndarray:
        """Vote as the base classifier that is certified."""
        return self.vote(session, images, None)

    def reach(self, n: int, alpha: float) -> float:
        """Return the largest lower bound that n samples can give: all of them agree."""
        votes = np.zeros(n, np.int64)
        draw = np.random.default_rng(0)
        return self.tally(votes, 0, draw, lambda chosen: votes[chosen]).lower(alpha)

    def tally(
        self, labels: np.ndarray, target: int, draw: np.random.Generator, redo: Redo
    ) -> Tally:
        """Return the evidence for a class from the votes of all samples.

        Arguments:
            labels: what each voted for.
            target: the class.
            draw: for choices at random.
            redo: solves samples again.
        """
        votes, undecided = (int((labels == label).sum()) for label in (target, UNDECIDED))
        return Tally(target, votes, undecided, len(labels))


@dataclass(frozen=True)
class Converged(Policy):
    """Solve every sample to the solver's tolerance, each by itself; count those that converged.

    From an input-independent start this is Cohen's certificate of the network as computed. From
    any other, an answer within the tolerance may still lean to where it started, so a vote counts
    only where the answer proves it, and the certificate is about the exact equilibrium.
    """

    @property
    def certifies(self) -> str:
        return EXACT if self.proven else OWN

    @property
    def proven(self) -> bool:
        return self.start.follows_image

    def check(self, model: Classifier) -> None:
        check_flow(model)
        if not isinstance(model, ImageModel) and not self.start.follows_image:
            check_fixed(model)
            return
        if isinstance(model, ImageModel) and not (
            model.layer.one_equation or self.start.follows_image
        ):
            check_rows(model)
            return
        super().check(model)
        if not self.start.follows_image:
            return
        assert isinstance(model, ImageModel)
        if not model.verifiable:
            raise ValueError(
                f"policy Converged with a start that follows from the clean image: {model.reason} "
                "So another start may lead to another answer than the base classifier's. Use "
                "start=Cold(), policy=Audited(), or a model trained with contraction=."
            )
        Proof.of(model)

    def prepare(self, model: Any) -> Callable[[Tensor], Session]:
        if self.start.follows_image:
            return Proof.sessions(model, self.start)
        if isinstance(model, ImageModel):
            one = model.layer.one_equation
            return super().prepare(model) if one else partial(ModelSession, model)
        return lambda image: Session(model, image)

    def propose(self, session: Session, images: Tensor) -> np.ndarray:
        if isinstance(session, LayerSession):
            return session.vote(images, session.model.layer.solver, stopped=True)
        return session.full(images)

    def vote(self, session: Session, images: Tensor, target: int | None) -> np.ndarray:
        if isinstance(session, VerifiedSession):
            return session.confirm(images, target, session.model.layer.solver)
        return session.full(images)


@dataclass(frozen=True)
class Truncated(Policy):
    """Count the votes of the network that stops after `steps` solver steps.

    Its start does not depend on the clean image, so the truncated network is a base classifier of
    its own and the certificate is about it, not about the equilibrium.

    Arguments:
        steps: solver steps, at least 1.
    """

    steps: int = 3

    @property
    def certifies(self) -> str:
        return f"the network of {self.steps} solver steps from the model's own start" + SIZE

    def __post_init__(self) -> None:
        check_count("steps", self.steps)

    def check(self, model: Any) -> None:
        super().check(model)
        if self.start.follows_image:
            raise ValueError(
                "policy Truncated certifies the network of so many steps from an "
                "input-independent start; a start that follows from the clean image makes it "
                "another network for each image. Use start=Cold(), or policy=Audited()."
            )
        check_steps(model)

    def vote(self, session: LayerSession, images: Tensor, target: int | None) -> np.ndarray:
        solver = replace(session.model.layer.solver, max_steps=self.steps)
        return session.vote(images, solver, stopped=True)


@dataclass(frozen=True)
class Audited(Policy):
    """Count the votes of any chain of short solves, less what a random audit cannot exclude.

    The samples that vote for the class are the population; `audit` of them, drawn at random after
    all have voted, are solved in full. If b disagree, at most D of all do, but for probability
    alpha2, and the bound is that of M - D votes. Sound under any dependence between the votes.

    Arguments:
        steps: solver steps of a short solve.
        audit: samples solved in full.
    """

    anytime: ClassVar[bool] = False
    start: Start = field(default_factory=Serial)
    steps: int = 3
    audit: int = 1000

    @property
    def certifies(self) -> str:
        return OWN

    def __post_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("audit", self.audit)

    def check(self, model: Any) -> None:
        super().check(model)
        check_flow(model)
        if not isinstance(self.start, Along):
            check_steps(model)

    def vote(self, session: LayerSession, images: Tensor, target: int | None) -> np.ndarray:
        solver = session.model.layer.solver
        if not issubclass(solver.answers, InitialValue):
            solver = replace(solver, max_steps=self.steps)
        return session.vote(images, solver, stopped=True)

    def base(self, session: Session, images: Tensor) -> np.ndarray:
        return session.full(images)

    def tally(
        self, labels: np.ndarray, target: int, draw: np.random.Generator, redo: Redo
    ) -> Tally:
        counted = super().tally(labels, target, draw, redo)
        members = np.flatnonzero(labels == target)
        chosen = np.sort(draw.choice(members, min(self.audit, len(members)), replace=False))
        if len(chosen) == 0:
            return replace(counted, audited=0)
        wrong = int((redo(chosen) != target).sum())
        return replace(counted, audited=len(chosen), disagreements=wrong)
