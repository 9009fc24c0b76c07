"""Certify, decide or predict one image by randomized smoothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from solvers.solver import named

from ..models import ImageModel, ModelOutput
from .asking import Ask, Asking, side_by_side
from .certificate import ABSTAIN, Certificate, whole
from .evidence import Sampling, Tally
from .noise import BLOCK, Phase, on_grid
from .policies import Policy, Question
from .requirements import check_same, weights
from .sequence import BettingSequence
from .smoothing import FIRST, Smoothing
from .statistics import required_probability
from .votes import UNDECIDED, Classifier, Session, Target, outputs, together


@dataclass
class Smoother:
    """Certify by sampling: a classifier, the votes that count, and the noise.

    Arguments:
        model: in eval mode; any classifier, `images -> logits`, under the policy `Converged`.
        policy: which votes count.
        smoothing: the noise and the statistics.
        advance: told the number of samples of each batch that is done.

    Attributes:
        session: begins an image.

    Raises:
        ValueError: the policy is not sound for the model, with the reason; or, of an image, the
            model is no longer the one that it was made with.
    """

    model: Classifier
    policy: Policy
    smoothing: Smoothing
    advance: Callable[[int], None] | None = None
    session: Callable[..., Session] = field(init=False, repr=False)
    _reaches: bool = field(default=False, init=False, repr=False)
    _weights: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.policy, Policy):
            raise TypeError(
                f"policy must be a Policy such as Converged(); got {named(self.policy)}."
            )
        self.policy.check(self.model)
        self.session = self.policy.prepare(self.model)
        self._weights = weights(self.model)

    @property
    def certifies(self) -> str:
        return self.policy.certifies

    @property
    def rule(self) -> Sampling:
        return self._rule(None)

    def _rule(self, asked: float | None) -> Sampling:
        own, deviation = self.smoothing, self.smoothing.noise.deviation
        return Sampling(deviation, own.alpha, own.n, not self.policy.anytime, asked)

    @torch.no_grad()
    def certify(self, image: Tensor, label: int, index: int) -> Certificate:
        """Return the largest radius that n samples prove, or abstain.

        Arguments:
            image: (C, H, W) in [0, 1].
            label: its true class.
            index: keys the noise.
        """
        return self._certify(image, label, index)[0]

    @torch.no_grad()
    def certify_and_count(
        self, image: Tensor, label: int, index: int
    ) -> tuple[Certificate, np.ndarray]:
        """Return a certificate, as `certify`, and how many samples voted for each class.

        Every sample is asked for its class, and not only whether that is the selected one: a
        policy that proves votes may then prove fewer, and a smaller radius.
        """
        return self._certify(image, label, index, every=True)

    def _certify(
        self, image: Tensor, label: int, index: int, every: bool = False
    ) -> tuple[Certificate, np.ndarray]:
        whole("label", label)  # before all the samples
        check_same(self.model, self._weights)
        n, noise = self.smoothing.n, self.smoothing.noise
        if not self._reaches:
            self.policy.check_reach(n, self.smoothing.alpha)
            self._reaches = True
        session = self._begin(image, index)
        target = self._select(session, index)
        asked = None if every else target
        labels = self._estimate(session, index, asked)

        def redo(chosen: np.ndarray) -> np.ndarray:
            parts = [chosen[start:stop] for start, stop in self.smoothing.chunks(len(chosen))]
            drawn = (noise.pick(index, Phase.ESTIMATE, part, image.shape) for part in parts)
            return np.concatenate([session.full(noise.onto(image, each)) for each in drawn])

        draw = noise.generator(index, Phase.ESTIMATE, "audit")
        tally = self.policy.tally(labels, target, draw, redo)
        claim = self.rule.claim(tally)
        found = Certificate(index, label, claim, tally, session.evaluations, session.note)
        return found, _counts(session, labels)

    @torch.no_grad()
    def decide(self, image: Tensor, label: int, index: int, radius: float) -> Certificate:
        """Answer whether the class holds within one radius, with as few samples as that takes.

        Sampling stops once the probability is proven above Phi(radius / sigma), once it is
        most likely below it, or after n samples.

        Arguments:
            image: (C, H, W) in [0, 1].
            label: its true class.
            index: keys the noise.
            radius: to decide on.
        """
        return next(self.decide_all(image[None], [label], [index], radius))

    @torch.no_grad()
    def decide_all(
        self, images: Tensor, labels: Sequence[int], indices: Sequence[int], radius: float
    ) -> Iterator[Certificate]:
        """Decide for several images side by side, as `decide` does for each.

        Samples of several images are solved together: the first 64 of an image, after which most
        are decided, are few. It yields certificates as they are reached.

        Arguments:
            images: (B, C, H, W) in [0, 1].
            labels: their true classes.
            indices: key the noise.
            radius: to decide on.
        """
        self._check_anytime("decide")
        for label in labels:
            whole("label", label)
        check_same(self.model, self._weights)
        own = self.smoothing
        own.check_radius(radius)
        given = zip(self._sessions(images, indices), labels, indices, strict=True)
        askings = [self._deciding(*each, radius) for each in given]
        alone = own.deterministic
        for some in [[each] for each in askings] if alone else [askings]:
            yield from side_by_side(some, self._answer, own.batch)

    def _sessions(self, images: Tensor, indices: Sequence[int]) -> list[Session]:
        """Begin images, which a model solves together."""
        if not isinstance(self.model, ImageModel) or self.smoothing.deterministic:
            return [self._begin(*each) for each in zip(images, indices, strict=True)]
        every = zip(images, indices, outputs(self.model, images), strict=True)
        return [self._begin(*each) for each in every]

    def _deciding(
        self, session: Session, label: int, index: int, radius: float
    ) -> Asking[Certificate]:
        own, parts = self.smoothing, []
        for start, stop in own.chunks(own.n0):
            parts.append((yield Ask(session, index, Phase.SELECT, start, stop)))
        target = int(_counts(session, np.concatenate(parts)).argmax())
        bets = BettingSequence(required_probability(radius, own.noise.deviation), own.alpha)
        undecided = 0
        for start, stop in own.chunks(own.n, FIRST):
            labels = yield Ask(session, index, Phase.ESTIMATE, start, stop, target)
            before = bets.trials
            bets = bets.update(labels == target)
            undecided += int((labels[: bets.trials - before] == UNDECIDED).sum())
            if bets.decision:
                break
        tally = Tally(target, bets.successes, undecided, bets.trials)
        claim = self._rule(radius).claim(tally)
        return Certificate(index, label, claim, tally, session.evaluations, session.note)

    def _answer(self, packs: Sequence[Sequence[Ask]]) -> list[list[np.ndarray]]:
        """Vote on samples of several images, those of each pack together."""
        counts = [[len(ask) for ask in asks] for asks in packs]
        if packs[0][0].phase == Phase.SELECT:
            found = [self.policy.propose(*each[:2]) for each in self._questions(packs, counts)]
        else:
            found = self.policy.vote_all(self._questions(packs, counts), self.smoothing.batch)
        every = zip(found, counts, strict=True)
        return [np.split(labels, np.cumsum(each)[:-1]) for labels, each in every]

    def _questions(
        self, packs: Sequence[Sequence[Ask]], counts: Sequence[Sequence[int]]
    ) -> Iterator[Question]:
        noise = self.smoothing.noise
        for asks, each in zip(packs, counts, strict=True):
            parts = []
            for ask in asks:
                image = ask.session.image
                drawn = noise.draw(ask.index, ask.phase, ask.start, ask.stop, image.shape)
                parts.append(noise.onto(image, drawn))
            session = together([ask.session for ask in asks], each)
            yield session, torch.cat(parts), _target(asks, each)
            self._done(sum(each))

    @torch.no_grad()
    def predict(self, image: Tensor, index: int) -> tuple[int, np.ndarray]:
        """Return the smoothed class, or -1 where alpha does not separate the first two, and counts.

        With probability at least 1 - alpha the class returned is the smoothed classifier's:
        undecided votes are counted for the runner-up.
        """
        from scipy.stats import binomtest

        self._check_anytime("predict")
        check_same(self.model, self._weights)
        self.smoothing.check_majority()
        session = self._begin(image, index)
        labels = self._estimate(session, index, None)
        counts = _counts(session, labels)
        first, second = (int(k) for k in np.sort(counts)[::-1][:2])
        second += int((labels == UNDECIDED).sum())
        sure = (
            first > second and binomtest(first, first + second, 0.5).pvalue <= self.smoothing.alpha
        )
        return (int(counts.argmax()) if sure else ABSTAIN), counts

    def _check_anytime(self, what: str) -> None:
        if not self.policy.anytime:
            raise ValueError(
                f"policy {type(self.policy).__name__} judges all votes together after an audit, "
                f"which {what} does not do: use Verified(), Converged() or Truncated()."
            )

    def _begin(self, image: Tensor, index: int, clean: ModelOutput | None = None) -> Session:
        if 0 in image.shape:
            raise ValueError(f"image {index} of shape {tuple(image.shape)} has no values.")
        if not (float(image.min()) >= 0 and float(image.max()) <= 1):  # nan is in no range
            raise ValueError(
                f"image {index} should have values in [0, 1]; got "
                f"{float(image.min()):g} to {float(image.max()):g}."
            )
        if self.smoothing.discrete and not torch.equal(on_grid(image), image):
            raise ValueError(
                f"image {index} should have values k/255 for discrete noise: use 8-bit images, or "
                "plain noise."
            )
        return self.session(image) if clean is None else self.session(image, clean)

    def _select(self, session: Session, index: int) -> int:
        batches = self._batches(session, index, Phase.SELECT, self.smoothing.n0)
        parts = [self.policy.propose(session, images) for images in batches]
        return int(_counts(session, np.concatenate(parts)).argmax())

    def _estimate(self, session: Session, index: int, target: int | None) -> np.ndarray:
        own = self.smoothing
        batches = self._batches(session, index, Phase.ESTIMATE, own.n)
        room = BLOCK if own.deterministic else own.batch
        questions = ((session, images, target) for images in batches)
        return np.concatenate(self.policy.vote_all(questions, room))

    def _batches(
        self, session: Session, index: int, phase: Phase, samples: int
    ) -> Iterator[Tensor]:
        """Yield a phase's noise samples, a batch at a time; one is done when the next is taken."""
        ranges, noise = self.smoothing.chunks(samples), self.smoothing.noise
        for drawn in noise.stream(index, phase, ranges, session.image.shape):
            yield noise.onto(session.image, drawn)
            self._done(len(drawn))

    def _done(self, samples: int) -> None:
        if self.advance is not None:
            self.advance(samples)


def _target(asks: Sequence[Ask], counts: Sequence[int]) -> Target:
    """Return the class that each sample is asked for."""
    if len(asks) == 1 or asks[0].target is None:
        return asks[0].target
    targets = torch.tensor([ask.target for ask in asks])
    return targets.repeat_interleave(torch.tensor(counts)).to(asks[0].session.image.device)


def _counts(session: Session, labels: np.ndarray) -> np.ndarray:
    return np.bincount(labels[labels != UNDECIDED], minlength=max(session.classes, 2))
