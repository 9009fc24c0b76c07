"""Which votes count, and what lower bound follows from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from solvers import Equilibrium, Evaluated, MonotoneInclusion, Solver

from ..lipschitz import MarginProof
from ..models import ImageModel
from .evidence import Tally
from .proof import Proof
from .requirements import (
    check_fixed,
    check_flow,
    check_one_equation,
    check_rows,
    check_start,
    check_tangent,
)
from .starts import Along, Cold, Start, Tangent
from .verified import EnclosedSession, VerifiedSession, prove_all
from .votes import UNDECIDED, Classifier, LayerSession, ModelSession, Session, Target

EXACT = "the classifier at the exact equilibrium"
SIZE = ", as it is computed at this batch size"
OWN = "the classifier at the answer of the model's own forward pass, from its own start" + SIZE

Question = tuple[Any, Tensor, Target]
"""What `Policy.vote` is asked: a session, noise samples (B, C, H, W), and the class."""

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

    def prepare(self, model: Any) -> Callable[..., Session]:
        """Return what begins an image, (C, H, W); work that all images share is done here.

        It may be given the image's `ModelOutput`, too, if there is one.
        """
        ready = model.fixed() if model.verifiable else model  # W is then computed once
        return lambda image, clean=None: LayerSession(ready, image, self.start, clean)

    @abstractmethod
    def vote(self, session: Any, images: Tensor, target: Target) -> np.ndarray:
        """Vote for each noise sample; with a target, a vote need only say whether it is that."""

    def vote_all(self, questions: Iterable[Question], room: int) -> list[np.ndarray]:
        """Vote for batches of noise samples; some may wait for others of later ones.

        Arguments:
            questions: of each batch.
            room: samples that wait, at most.
        """
        return [self.vote(*question) for question in questions]

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

    def check_reach(self, n: int, alpha: float) -> None:
        """Raise ValueError unless n samples that all agree certify a class."""
        best = self.reach(n, alpha)
        if best <= 0.5:
            more = (k for k in range(n + 1, 2 * n + 64) if self.reach(k, alpha) > 0.5)
            enough = next(more, None)
            advice = f"n={enough} or more" if enough else "a larger n= or audit="
            raise ValueError(
                f"{n} samples that all agree bound the probability of a class by {best:.3f} at "
                f"alpha {alpha:g}, and a certificate needs more than 0.5: every image would "
                f"abstain. Give {advice}."
            )

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

    def prepare(self, model: Any) -> Callable[..., Session]:
        if self.start.follows_image:
            return VerifiedSession.prepared(model, self.start)
        if isinstance(model, ImageModel):
            one = model.layer.one_equation
            return super().prepare(model) if one else partial(ModelSession, model)
        return lambda image, clean=None: Session(model, image)

    def propose(self, session: Session, images: Tensor) -> np.ndarray:
        if isinstance(session, LayerSession):
            return session.vote(images, session.model.layer.solver)
        return session.full(images)

    def vote(self, session: Session, images: Tensor, target: Target) -> np.ndarray:
        if isinstance(session, VerifiedSession):
            return session.confirm(images, target, session.model.layer.solver)
        return session.full(images)


@dataclass(frozen=True)
class Verified(Policy):
    """Iterate until a bound proves the vote; what is not proven within the budget is not counted.

    Every counted vote is that of the exact equilibrium, so Clopper-Pearson holds whatever the
    start, the chain or the stopping, and no accuracy is lost where all samples are decided.
    Contractive and monotone models with an affine head qualify; the equilibrium is that of the
    layer's condition as it is computed in single precision. So do stacks of layers of which
    `homotopy_deq.lipschitz` knows how far an answer is from the exact one (`MarginProof`): these
    are evaluated in double precision, each equilibrium by the path of the proof.

    Arguments:
        start: of no meaning to a stack.
        solver: how to iterate, and how far in single precision; of no meaning to a stack. None is
            `Anderson`, or where ||W|| is 2 or more, and fixed-point steps run away, the accelerated
            splitting that a `MonotoneDEQ` has, both to 1e-5 in 200 steps.
    """

    start: Start = field(default_factory=Tangent)
    solver: Solver[Equilibrium, Any] | None = None

    @property
    def certifies(self) -> str:
        return EXACT

    @property
    def proven(self) -> bool:
        return True

    def check(self, model: Any) -> None:
        if not isinstance(model, ImageModel):
            super().check(model)
        elif not model.layer.one_equation:
            MarginProof(model.network())  # raises where nothing is proved of a part
            check_rows(model)
            return
        if self.solver is not None and not _evaluates(self.solver):
            raise ValueError(
                "policy Verified proves votes from f(z) at each iterate, which "
                f"{type(self.solver).__name__} does not keep: leave solver= out, or choose "
                "Anderson, Picard, Broyden or a splitting."
            )
        if model.reason is not None:
            raise ValueError(
                f"policy Verified: {model.reason} Train a DEQ or HomoODE with contraction=, or a "
                "MonotoneDEQ, or choose policy=Converged() or policy=Audited()."
            )
        check_tangent(model, self.start)
        Proof.of(model)  # raises where the weights break what their parametrisation promises
        if isinstance(self.start, Along):
            super().check(model)
        else:  # any other start will do that can be computed: nothing rests on it
            check_rows(model)

    def prepare(self, model: Any) -> Callable[..., Session]:
        if not model.layer.one_equation:
            return partial(EnclosedSession, model, proof=MarginProof(model.network()))
        return VerifiedSession.prepared(model, self.start)

    def propose(self, session: Any, images: Tensor) -> np.ndarray:
        if isinstance(session, EnclosedSession):
            return session.full(images)
        labels: np.ndarray = session.propose(images)
        return labels

    def vote(self, session: Any, images: Tensor, target: Target) -> np.ndarray:
        (labels,) = self.vote_all([(session, images, target)], len(images))
        return labels

    def vote_all(self, questions: Iterable[Question], room: int) -> list[np.ndarray]:
        return prove_all(questions, self.solver, room)


def _evaluates(solver: Solver[Equilibrium, Any]) -> bool:
    """Say whether a solver keeps f(z) at its iterates, as it begins on an equation for any."""
    zero = MonotoneInclusion(
        condition=(torch.zeros(1, 1),),
        linear=torch.zeros_like,
        resolvent=lambda alpha: lambda v: v / (1 + alpha),
        moduli=lambda: (1.0, 1.0),
    )
    return isinstance(solver.init(zero, torch.zeros(1, 1)), Evaluated)
