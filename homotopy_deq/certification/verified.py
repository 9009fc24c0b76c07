"""Votes that count only once a bound proves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solvers import Anderson, Equilibrium, Evaluated, MonotoneInclusion, Solver

from ..lipschitz import MarginProof
from ..models import ImageModel
from .policies import EXACT, Policy
from .proof import SELECT, EnclosedSession, Proof
from .requirements import check_rows, check_tangent
from .starts import Along, Start, Tangent
from .votes import Session


@dataclass(frozen=True)
class Verified(Policy):
    """Iterate until a bound proves the vote; what is not proven within the budget is not counted.

    Every counted vote is that of the exact equilibrium, so Clopper-Pearson holds whatever the
    start, the chain or the stopping, and no accuracy is lost where all samples are decided.
    Contractive and monotone models with an affine head qualify; the equilibrium is that of the
    layer's condition as it is computed in single precision. So do stacks of layers of which
    `homotopy_deq.lipschitz` knows how far an answer is from the exact one (`MarginProof`): these
    are evaluated in double precision, each equilibrium by its own solver.

    Arguments:
        start: of no meaning to a stack.
        solver: how to iterate, and how far in single precision; of no meaning to a stack.
    """

    start: Start = field(default_factory=Tangent)
    solver: Solver[Equilibrium, Any] = field(
        default_factory=lambda: Anderson(rtol=1e-5, max_steps=200, delay=4)
    )

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
        if not _evaluates(self.solver):
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

    def prepare(self, model: Any) -> Callable[[Tensor], Session]:
        if not model.layer.one_equation:
            return partial(EnclosedSession, model, proof=MarginProof(model.network()))
        return Proof.sessions(model, self.start)

    def propose(self, session: Any, images: Tensor) -> np.ndarray:
        if isinstance(session, EnclosedSession):
            return session.full(images)
        labels: np.ndarray = session.vote(images, SELECT, stopped=True)
        return labels

    def vote(self, session: Any, images: Tensor, target: int | None) -> np.ndarray:
        labels: np.ndarray = session.prove(images, target, self.solver)
        return labels


def _evaluates(solver: Solver[Equilibrium, Any]) -> bool:
    """Say whether a solver keeps f(z) at its iterates, as it begins on an equation for any."""
    zero = MonotoneInclusion(
        condition=(torch.zeros(1, 1),),
        linear=torch.zeros_like,
        resolvent=lambda alpha: lambda v: v / (1 + alpha),
        moduli=lambda: (1.0, 1.0),
    )
    return isinstance(solver.init(zero, torch.zeros(1, 1)), Evaluated)
