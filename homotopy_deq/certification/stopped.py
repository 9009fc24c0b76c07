"""Votes of solves that are stopped early: certified as they are, or audited."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from solvers import InitialValue

from .evidence import Tally
from .policies import OWN, SIZE, Policy, Redo
from .requirements import check_count, check_flow, check_steps
from .starts import Along, Serial, Start
from .votes import LayerSession, Session, Target


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

    def vote(self, session: LayerSession, images: Tensor, target: Target) -> np.ndarray:
        solver = replace(session.model.layer.solver, max_steps=self.steps)
        return session.vote(images, solver)


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

    def vote(self, session: LayerSession, images: Tensor, target: Target) -> np.ndarray:
        solver = session.model.layer.solver
        if not issubclass(solver.answers, InitialValue):
            solver = replace(solver, max_steps=self.steps)
        return session.vote(images, solver)

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
