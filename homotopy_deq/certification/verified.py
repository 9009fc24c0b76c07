"""Votes that count only once a bound proves them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from solvers import Anderson, Equilibrium, Solver, State, solve
from solvers.until import Until

from ..cells.bounds import rounding
from ..cells.functional import FunctionalBound
from ..cells.inclusion import FixedCell, InclusionCell
from ..models import ImageModel
from .policies import Policy
from .starts import Along, Start, Tangent
from .votes import Session, Votes, to_votes

ROUNDING = 1e-9
"""Share of the largest bias that is added to every radius, for sums in double precision."""

FINE = 1e-11
"""Relative residual at which a sample that is open in double precision is given up."""

SELECT = Anderson(rtol=1e-2)
"""Selection only proposes a class, which the estimation then bounds: no proof is needed there."""


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
    exact: InclusionCell

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
        assert isinstance(cell, InclusionCell)
        return cls(FunctionalBound.of(cell, weight), bias, FixedCell(cell).double())

    def decision(
        self, target: int | None, dtype: torch.dtype
    ) -> Callable[[Equilibrium, State], Tensor]:
        """Return what tells which samples are decided, for states of a precision.

        With a target: the vote is provably the target, as its logit exceeds all others, or
        provably not, as one other exceeds it. Without: the largest logit exceeds all others.
        """
        table = self.bound.sizes()
        offsets = self.bias[:, None] - self.bias
        slack = ROUNDING * self.bias.abs().max()
        products = self.bound.products(dtype)

        def decided(problem: Equilibrium, state: State) -> Tensor:
            assert problem.condition is not None
            (x,) = problem.condition
            centre = self.bound.center(state.z, state.fz, products)
            at = centre.at
            eta = rounding(state.z, state.fz, x, self.bound.bounds)
            if target is None:
                first = (at + self.bias).argmax(1)
            else:
                first = torch.tensor([target], device=at.device)
            radius = self.bound.radius(centre, eta, table[:, first]) + slack
            margin = at.gather(1, first.expand(len(at))[:, None]) - at + offsets[first]
            above = (margin > radius).scatter(1, first.expand(len(at))[:, None], True)
            if target is None:
                return above.all(1)
            below = margin < -radius
            return above.all(1) | below.any(1)

        return decided


class VerifiedSession(Session):
    """A session that can prove votes.

    Arguments:
        model, image, start: as in `Session`.
        proof: of the model.
    """

    def __init__(self, model: ImageModel, image: Tensor, start: Start, proof: Proof) -> None:
        super().__init__(model, image, start)
        self.proof = proof

    def prove(self, images: Tensor, target: int | None, solver: Solver[Equilibrium, Any]) -> Votes:
        """Vote for each sample once its vote is proven; -1 where it is not.

        A vote may be so close that the rounding of single precision leaves it open. Such a
        sample goes on in double precision from where it was.
        """
        x, condition = self.condition(images)
        problem = self.model.layer.equation(condition)
        proof, dtype = self.proof, x.dtype
        if covered(x):
            first: Solver[Equilibrium, Any] = Until(solver, proof.decision(target, dtype))
        else:
            first = SELECT  # no decision, only a start
        found = self.solve(problem, first, x)
        z, evaluations = found.value.double(), found.evals
        decided = found.converged if covered(x) else torch.zeros_like(found.converged)
        (left,) = torch.nonzero(~decided, as_tuple=True)
        if len(left):
            close = proof.exact.equation(tuple(t[left].double() for t in condition))
            fine = replace(solver, rtol=min(solver.rtol, FINE))
            closer = solve(close, Until(fine, proof.decision(target, torch.float64)), z[left])
            z[left] = closer.value
            decided[left] = closer.converged
            evaluations = evaluations.index_add(0, left, closer.evals)
        logits = z.flatten(1) @ proof.bound.value.mT + proof.bias
        return to_votes(logits, decided, evaluations)


def covered(x: Tensor) -> bool:
    """Tell whether `bounds.rounding` covers how a cell is evaluated for a condition."""
    return x.dtype == torch.float64 or x.dim() == 2 or not x.is_cuda


@dataclass(frozen=True)
class Verified(Policy):
    """Iterate until a bound proves the vote; what is not proven within the budget is not counted.

    Every counted vote is that of the exact equilibrium, so Clopper-Pearson holds whatever the
    start, the chain or the stopping, and no accuracy is lost where all samples are decided.
    Contractive and monotone models with an affine head qualify; the equilibrium is that of the
    layer's condition as it is computed in single precision.

    Arguments:
        solver: how to iterate, and how far in single precision.
    """

    certifies: ClassVar[str] = "the classifier at the exact equilibrium"

    start: Start = field(default_factory=Tangent)
    solver: Solver[Equilibrium, Any] = field(
        default_factory=lambda: Anderson(rtol=1e-5, max_steps=200, delay=4)
    )

    def check(self, model: ImageModel) -> None:
        if model.reason is not None:
            raise ValueError(
                f"policy verified: {model.reason} Train deq or homoode with --contraction, or "
                "monotone, or choose --policy converged or audited."
            )
        Proof.of(model)  # raises where the weights break what their parametrisation promises
        if isinstance(self.start, Along):  # any other start will do: nothing rests on it
            super().check(model)

    def prepare(self, model: ImageModel) -> Callable[[Tensor], Session]:
        fixed = model.fixed()
        proof = Proof.of(fixed)
        return lambda image: VerifiedSession(fixed, image, self.start, proof)

    def propose(self, session: Session, images: Tensor) -> Votes:
        return session.vote(images, SELECT, stopped=True)

    def vote(self, session: Session, images: Tensor, target: int | None) -> Votes:
        assert isinstance(session, VerifiedSession)
        return session.prove(images, target, self.solver)
