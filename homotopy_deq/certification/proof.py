"""What is proven of a vote, and sessions that count no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solvers import Anderson, Equilibrium, Solver, Status, solve
from solvers.solver import Evaluated, start
from solvers.until import Until

from ..cells import FixedCell, ProvableCell
from ..cells.bounds import rounding, uncovered
from ..cells.functional import FunctionalBound
from ..lipschitz import MarginProof
from ..models import ImageModel
from .starts import Start
from .votes import LayerSession, ModelSession, Target

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

    @classmethod
    def sessions(cls, model: ImageModel, start: Start) -> Callable[[Tensor], VerifiedSession]:
        """Return what begins an image with the proof of a model, whose W is computed once."""
        fixed = model.fixed()
        proof = cls.of(fixed)
        return lambda image: VerifiedSession(fixed, image, start, proof)

    def logits(self, z: Tensor) -> Tensor:
        """Return the logits at a state in double precision, less what all of them share."""
        return z.flatten(1) @ self.bound.value.mT + self.bias

    def decision(self, dtype: torch.dtype) -> Callable[..., Tensor]:
        """Return what tells which samples are decided, for states of a precision.

        It takes the problem, the state and, where there are any, targets (B,). With a target: the
        vote is provably the target, as its logit exceeds all others, or provably not, as one
        other exceeds it. Without: the largest logit exceeds all others.
        """
        table = self.bound.sizes()
        offsets = self.bias[:, None] - self.bias
        slack = ROUNDING * self.bias.abs().max()
        products = self.bound.products(dtype)

        def decided(problem: Equilibrium, state: Evaluated, target: Tensor | None = None) -> Tensor:
            (x,) = problem.inputs
            centre = self.bound.center(state.z, state.fz, products)
            at = centre.at
            eta = rounding(state.z, state.fz, x, self.bound.bounds)
            first = (at + self.bias).argmax(1) if target is None else target
            radius = self.bound.radius(centre, eta, table[:, first]) + slack
            margin = at.gather(1, first[:, None]) - at + offsets[first]
            above = (margin > radius).scatter(1, first[:, None], True)
            if target is None:
                return above.all(1)
            below = margin < -radius
            return above.all(1) | below.any(1)

        return decided


class VerifiedSession(LayerSession):
    """A session that can prove votes.

    Arguments:
        model: as in `LayerSession`.
        image: as in `LayerSession`.
        start: as in `LayerSession`.
        proof: of the model.
    """

    def __init__(self, model: ImageModel, image: Tensor, start: Start, proof: Proof) -> None:
        super().__init__(model, image, start)
        self.proof = proof
        self.tried = self.free = 0
        (given, *_) = self.clean.condition
        if uncovered(given) is not None:  # W z* has been computed so, and is kept
            self.starter = self.starter._replace(free=None)

    def propose(self, images: Tensor) -> np.ndarray:
        """Vote to select a class, and see how many votes need no evaluation."""
        x, condition = self.condition(images)
        problem = self.model.layer.equation(condition)
        if self.starter.free is not None and uncovered(x) is None:
            decided = self.proof.decision(x.dtype)(problem, self.known(problem))
            for (session, free), (_, tried) in zip(
                self.each(decided.long()), self.each(torch.ones_like(decided).long()), strict=True
            ):
                assert isinstance(session, VerifiedSession)
                session.free += free
                session.tried += tried
        found = self.solve(problem, SELECT, x)
        usable = found.converged | (found.status == Status.MAX_STEPS)
        return self.cast(self.model.head(found.value), usable, found.evals)

    def known(self, problem: Equilibrium) -> Evaluated:
        """Return what is known of each sample without an evaluation, see `Starter.free`."""
        if not self.members:
            assert self.starter.free is not None
            return self.starter.free(problem)
        parts = []
        for session, own in self.shares():
            assert session.starter.free is not None
            parts.append(session.starter.free(problem.rows(own)))
        return Evaluated(
            *(
                torch.cat([getattr(each, name) for each in parts])
                for name in ("z", "residual", "fz")
            )
        )

    @property
    def pays(self) -> bool:
        """Whether what is known decided most of the samples that selected the class."""
        return self.starter.free is not None and 0 < self.tried <= 2 * self.free

    def prove(self, images: Tensor, target: Target, solver: Solver[Equilibrium, Any]) -> np.ndarray:
        """Vote for each sample once its vote is proven; -1 where it is not.

        Where the evaluation at the clean image's equilibrium, which takes no product, decided most
        of the samples that selected the class, it is asked first.
        """
        x, condition = self.condition(images)
        problem = self.model.layer.equation(condition)
        asked = each_of(target, x)
        pays = [isinstance(each, VerifiedSession) and each.pays for each in self.members or (self,)]
        if uncovered(x) is not None or not any(pays):
            z, decided, evals = self._prove(problem, x, asked, solver)
            return self.cast(self.proof.logits(z), decided, evals)
        known = self.known(problem)
        decided = self.proof.decision(x.dtype)(problem, known, asked)
        if self.members:
            decided = decided & torch.tensor(pays, device=x.device)[self.owner]
        z, evals = known.fz.double(), torch.zeros_like(decided, dtype=torch.int64)
        (left,) = torch.nonzero(~decided, as_tuple=True)
        if len(left):
            some = None if asked is None else asked[left]
            z[left], decided[left], evals[left] = self._prove(
                problem.rows(left), x[left], some, solver, left
            )
        return self.cast(self.proof.logits(z), decided, evals)

    def _prove(
        self,
        problem: Equilibrium,
        x: Tensor,
        target: Tensor | None,
        solver: Solver[Equilibrium, Any],
        rows: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Iterate until each vote is proven: return z, whether it is, and the evaluations.

        A vote may be so close that the rounding of single precision leaves it open. Such a
        sample goes on in double precision from where it was.
        """
        proof = self.proof
        single = uncovered(x) is None
        first = Until(solver, proof.decision(x.dtype), target) if single else SELECT
        found = self.solve(problem, first, x, rows)
        z, evaluations = found.value.double(), found.evals
        decided = found.converged & single
        (left,) = torch.nonzero(~decided, as_tuple=True)
        if len(left):
            close = proof.exact.equation(tuple(t[left].double() for t in problem.inputs))
            fine = replace(solver, rtol=min(solver.rtol, FINE))
            some = None if target is None else target[left]
            closer = solve(close, Until(fine, proof.decision(torch.float64), some), z[left])
            z[left] = closer.value
            decided[left] = closer.converged
            evaluations = evaluations.index_add(0, left, closer.evals)
        return z, decided, evaluations

    def confirm(
        self, images: Tensor, target: Target, solver: Solver[Equilibrium, Any]
    ) -> np.ndarray:
        """Vote at the answer of a solve to its tolerance, where that proves the vote; else -1."""
        x, condition = self.condition(images)
        found = self.solve(self.model.layer.equation(condition), solver, x)
        exact = self.proof.exact.equation(tuple(t.double() for t in condition))
        z = found.value.double()
        state = start(exact, z)
        sure = self.proof.decision(torch.float64)(exact, state, each_of(target, x))
        return self.cast(self.proof.logits(state.fz), found.converged & sure, found.evals + 1)


def each_of(target: Target, x: Tensor) -> Tensor | None:
    """Return the class that each sample is asked for, (B,), or None."""
    if isinstance(target, int):
        return torch.full((len(x),), target, device=x.device)
    return target


class EnclosedSession(ModelSession):
    """A session that proves votes by an enclosure of the logits, of a stack of any layers.

    Arguments:
        model: as in `ModelSession`.
        image: as in `ModelSession`.
        proof: of the model's network.
    """

    def __init__(self, model: ImageModel, image: Tensor, proof: MarginProof) -> None:
        super().__init__(model, image)
        self.proof = proof

    def prove(self, images: Tensor, target: Target, solver: Solver[Equilibrium, Any]) -> np.ndarray:
        """Vote for the class of each sample that the enclosure leaves open to no other; else -1."""
        for session, samples in self.each(torch.ones(len(images), dtype=torch.int64)):
            session.evaluations += samples
        labels: np.ndarray = self.proof.classes(images).cpu().numpy()  # -1 where it is open
        return labels
