"""Sessions that count proven votes, and no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from solvers import Anderson, Equilibrium, Solver, Status, solve
from solvers.solver import Evaluated, start
from solvers.until import Until

from ..cells.bounds import uncovered
from ..lipschitz import MarginProof
from ..models import ImageModel, ModelOutput
from .proof import Proof, iteration
from .starts import Start
from .votes import LayerSession, ModelSession, Target

FINE = 1e-11
"""Relative residual at which a sample that is open in double precision is given up."""

ENOUGH = 2.5
"""What is known without an evaluation is asked first where it decides one in so many samples."""

FEW = 1
"""Steps that all samples of a batch take, before those that are open wait for others."""


@dataclass(frozen=True)
class Open:
    """Samples whose votes are open.

    Arguments:
        session: theirs.
        labels: the votes of their batch, which theirs will be written into.
        rows: their places in it.
        inputs: what the cell is iterated with, of these samples.
        z: where they are, (B, ...).
        asked: the class that each is asked for, (B,), or None.
        rest: how they go on in single precision; None where they do not.
    """

    session: VerifiedSession
    labels: np.ndarray
    rows: Tensor
    inputs: tuple[Tensor, ...]
    z: Tensor
    asked: Tensor | None
    rest: Solver[Equilibrium, Any] | None

    def __len__(self) -> int:
        return len(self.z)


def prove_all(
    questions: Iterable[tuple[VerifiedSession | EnclosedSession, Tensor, Target]],
    solver: Solver[Equilibrium, Any] | None,
    room: int,
) -> list[np.ndarray]:
    """Vote for batches of noise samples, each once its vote is proven; -1 where it is not.

    What a first look leaves open waits until a batch of it has come together: the last few samples
    of a solve take most of its steps, and a step of few costs as much as of some hundred. Each
    sample's iterates are the same as without.

    Arguments:
        questions: sessions of one model, noise samples (B, C, H, W), and what they are asked for.
        solver: how to iterate; by default as suits the model, see `iteration`.
        room: samples that go on together.
    """
    labels: list[np.ndarray] = []
    left: list[Open] = []
    for session, images, target in questions:
        voted, waits = session.look(images, target, solver)
        labels.append(voted)
        left += waits
        if sum(map(len, left)) >= room:
            settle(left, solver)
            left = []
    settle(left, solver)
    return labels


def settle(left: Sequence[Open], solver: Solver[Equilibrium, Any] | None) -> None:
    """Write the votes of what is open into the labels of its batches.

    A vote may be so close that the rounding of single precision leaves it open. Such a sample goes
    on in double precision from where it was.
    """
    for rest in dict.fromkeys(each.rest for each in left if len(each)):
        some = [each for each in left if each.rest == rest]
        session, proof = some[0].session, some[0].session.proof
        inputs = tuple(map(torch.cat, zip(*(each.inputs for each in some), strict=True)))
        targets = [each.asked for each in some if each.asked is not None]
        asked = torch.cat(targets) if targets else None
        z = torch.cat([each.z for each in some])
        decided = torch.zeros(len(z), dtype=torch.bool, device=z.device)
        evals = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        if rest is not None:
            until = Until(rest, proof.decision(z.dtype), asked)
            found = solve(session.model.layer.equation(inputs), until, z)
            z, decided, evals = found.value, found.converged, found.evals
        z = z.double()
        (rows,) = torch.nonzero(~decided, as_tuple=True)
        if len(rows):
            close = proof.exact.equation(tuple(t[rows].double() for t in inputs))
            own = solver or session.solver
            fine = replace(own, rtol=min(own.rtol, FINE))
            until = Until(fine, proof.decision(z.dtype), None if asked is None else asked[rows])
            closer = solve(close, until, z[rows])
            z[rows], decided[rows] = closer.value, closer.converged
            evals = evals.index_add(0, rows, closer.evals)
        counts = [len(each) for each in some]
        parts = (t.split(counts) for t in (proof.logits(z), decided, evals))  # type: ignore[no-untyped-call]
        for each, *its in zip(some, *parts, strict=True):
            each.labels[each.rows.cpu().numpy()] = each.session.cast(*its, each.rows)


class VerifiedSession(LayerSession):
    """A session that can prove votes.

    Arguments:
        model: as in `LayerSession`.
        image: as in `LayerSession`.
        start: as in `LayerSession`.
        proof: of the model.
        clean: as in `LayerSession`.
    """

    def __init__(
        self,
        model: ImageModel,
        image: Tensor,
        start: Start,
        proof: Proof,
        clean: ModelOutput | None = None,
    ) -> None:
        super().__init__(model, image, start, clean)
        self.proof = proof
        self.solver, self.selector = iteration(proof.bound.bounds)
        self.tried = self.free = 0
        (given, *_) = self.clean.condition
        if uncovered(given) is not None:  # W z* has been computed so, and is kept
            self.starter = self.starter._replace(free=None)

    @classmethod
    def prepared(cls, model: ImageModel, start: Start) -> Callable[..., VerifiedSession]:
        """Return what begins an image with the proof of a model, whose W is computed once."""
        fixed = model.fixed()
        proof = Proof.of(fixed)
        return lambda image, clean=None: cls(fixed, image, start, proof, clean)

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
        found = self.solve(problem, self.selector, x)
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
        """Whether what is known decided enough of the samples that selected the class.

        To ask costs 30 to 40% of an evaluation that is judged, on the models of the digits and of
        Fashion-MNIST that `experiments/certify.py` trains.
        """
        return self.starter.free is not None and 0 < self.tried <= ENOUGH * self.free

    def look(
        self, images: Tensor, target: Target, solver: Solver[Equilibrium, Any] | None
    ) -> tuple[np.ndarray, list[Open]]:
        """Vote where little decides, and return the votes and what is open.

        Where the evaluation at the clean image's equilibrium, which takes no product, decided
        enough of the samples that selected the class, it is asked first; then a solve takes `FEW`
        steps.
        """
        solver = solver or self.solver
        x, condition = self.condition(images)
        problem = self.model.layer.equation(condition)
        asked, proof = each_of(target, x), self.proof
        single = uncovered(x) is None
        pays = [isinstance(each, VerifiedSession) and each.pays for each in self.members or (self,)]
        if single and any(pays):
            logits, decided = proof.judge(x.dtype)(problem, self.known(problem), asked)
            if self.members:
                decided = decided & torch.tensor(pays, device=x.device)[self.owner]
        else:
            logits = proof.bias.new_zeros(len(x), len(proof.bias))
            decided = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        evals = torch.zeros_like(decided, dtype=torch.int64)
        (rows,) = torch.nonzero(~decided, as_tuple=True)
        if len(rows) == 0:
            return self.cast(logits, decided, evals), []
        whole = not single or self.start.chained
        first, rest = (solver if single else self.selector, None) if whole else parted(solver)
        own, some = problem.rows(rows), None if asked is None else asked[rows]
        until = Until(first, proof.decision(x.dtype), some) if single else first
        found = self.solve(own, until, x[rows], rows)
        logits[rows], evals[rows] = proof.logits(found.value.double()), found.evals
        decided[rows] = found.converged & single
        labels = self.cast(logits, decided, evals)
        (left,) = torch.nonzero(~decided[rows], as_tuple=True)
        inputs = tuple(t[left] for t in own.inputs)
        some = None if some is None else some[left]
        return labels, [Open(self, labels, rows[left], inputs, found.value[left], some, rest)]

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


def parted(
    solver: Solver[Equilibrium, Any],
) -> tuple[Solver[Equilibrium, Any], Solver[Equilibrium, Any] | None]:
    """Return a solver that stops after `FEW` steps, and one that takes the others from there.

    The second begins at f(z) of the first's last iterate. That is the next iterate as long as steps
    are Picard's, which those of `Anderson` are before its `delay`; any other solver is left whole.
    """
    if not isinstance(solver, Anderson) or min(solver.delay, solver.max_steps) <= FEW:
        return solver, None
    taken = FEW + 1
    after = {"delay": solver.delay - taken, "max_steps": solver.max_steps - taken}
    return replace(solver, max_steps=FEW), replace(solver, **after)


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
        clean: as in `ModelSession`.
        proof: of the model's network.
    """

    def __init__(
        self,
        model: ImageModel,
        image: Tensor,
        clean: ModelOutput | None = None,
        *,
        proof: MarginProof,
    ) -> None:
        super().__init__(model, image, clean)
        self.proof = proof

    def look(
        self, images: Tensor, target: Target, solver: Solver[Equilibrium, Any] | None
    ) -> tuple[np.ndarray, list[Open]]:
        """Vote for the class of each sample that the enclosure leaves open to no other; else -1."""
        for session, samples in self.each(images.new_ones(len(images), dtype=torch.int64)):
            session.evaluations += samples
        labels: np.ndarray = self.proof.classes(images).cpu().numpy()  # -1 where it is open
        return labels, []
