"""What is claimed of one image, the evidence that it follows from, and who claims it."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, Protocol, SupportsIndex, get_args

from torch import Tensor

from .statistics import floor_radius

ABSTAIN = -1
DIGITS = 6
"""Decimals that a radius is printed with, rounded down."""
HEADER = "idx\tlabel\tpredict\tradius\tcorrect\tevals"
SURELY = "for certain"
DRIFT = 1e-9
"""Relative difference to what another SciPy may have computed; each bound is lowered by as much."""


Norm = Literal["l2", "linf"]
"""In which distances from an image are measured."""


@dataclass(frozen=True)
class Claim(ABC):
    """The classifier's class is `prediction` within `radius` of the image.

    Arguments:
        prediction: the class, or -1 for an abstention.
        radius: in input units, rounded down; 0 for an abstention, and for nothing else.
        norm: that the radius is in.

    Raises:
        ValueError: for a number that is not finite, a radius that does not go with the class, or
            an unknown norm.
    """

    prediction: int
    radius: float
    norm: Norm = field(default="l2", kw_only=True)

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise ValueError(f"norm must be {' or '.join(get_args(Norm))}; got {self.norm}.")
        for name, value in vars(self).items():
            if isinstance(value, float) and not 0 <= value < math.inf:
                raise ValueError(f"a {name} must be finite and 0 or more; got {value}.")
        if (self.prediction == ABSTAIN) != (self.radius == 0):
            raise ValueError(
                f"class {self.prediction} with radius {self.radius:g}; an abstention (-1) has "
                "radius 0, and nothing else has."
            )

    @property
    @abstractmethod
    def holds(self) -> str:
        """In which sense it holds: a label for curves and tables."""


@dataclass(frozen=True)
class Certain(Claim):
    """A claim that holds for certain.

    Arguments:
        prediction: as in `Claim`.
        radius: as in `Claim`.
    """

    @property
    def holds(self) -> str:
        return SURELY


@dataclass(frozen=True)
class Probable(Claim):
    """A claim about a smoothed classifier, which noise samples may have made falsely.

    Arguments:
        prediction: as in `Claim`.
        radius: as in `Claim`.
        lower: bound on the probability of the class under noise.
        stop: why sampling ended.
        alpha: probability, at most, over the noise that was drawn, that it is false.
    """

    lower: float
    stop: str
    alpha: float

    @property
    def holds(self) -> str:
        return f"each with probability {1 - self.alpha:g}"


class Evidence(Protocol):
    """The numbers that a claim follows from: a frozen dataclass.

    Attributes:
        samples: looked at, to judge what an evaluation is of.
        undecided: of these, those that count for no class.
    """

    @property
    def samples(self) -> int: ...

    @property
    def undecided(self) -> int: ...


@dataclass(frozen=True)
class Certificate:
    """A claim about one image, and its evidence.

    Arguments:
        index: of the image in the test set.
        label: its true class.
        claim: `Probable` or `Certain`.
        evidence: the numbers that it follows from.
        evaluations: of the map for the image, all that went before included.
        note: what else there is to say.

    Raises:
        ValueError: index or label is below 0: an abstention, -1, is right about no image.
    """

    index: int
    label: int
    claim: Claim
    evidence: Evidence
    evaluations: int
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("index", "label"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))

    @property
    def prediction(self) -> int:
        """The certified class, or -1."""
        return self.claim.prediction

    @property
    def radius(self) -> float:
        """The certified radius."""
        return self.claim.radius

    @property
    def correct(self) -> bool:
        """Whether the class is the true one."""
        return self.prediction == self.label

    def body(self) -> dict[str, Any]:
        """Return the certificate as JSON."""
        seen = {name: value for name, value in vars(self.evidence).items() if value is not None}
        cost = {"evaluations": self.evaluations, "note": self.note, "correct": self.correct}
        return {"index": self.index, "label": self.label, **vars(self.claim), **seen, **cost}

    @classmethod
    def of(cls, body: Mapping[str, Any], claim: type[Claim], evidence: type[Any]) -> Certificate:
        """Return what `body` wrote, of these kinds.

        Raises:
            ValueError: it is impossible.
        """
        flat = {**body, **body.get("detail", {})}  # where journals of format 2 had a part of it

        def made(kind: Any) -> Any:
            return kind(
                **{each.name: flat[each.name] for each in fields(kind) if each.name in flat}
            )

        try:
            said, seen = made(claim), made(evidence)
        except ValueError as error:
            raise ValueError(f"image {body['index']}: {error}") from None
        note = flat.get("note", flat.get("start", ""))
        return cls(body["index"], body["label"], said, seen, body["evaluations"], note)

    def row(self) -> str:
        """Return the row of a table: idx, label, predict, radius, correct, evaluations."""
        radius = f"{floor_radius(self.radius, DIGITS):.{DIGITS}f}"
        cells = (self.index, self.label, self.prediction, radius, int(self.correct))
        return "\t".join(map(str, (*cells, self.evaluations)))


def whole(name: str, value: SupportsIndex) -> int:
    """Return an index or a label, which may be a tensor's, or raise unless it is 0 or more."""
    try:
        found = operator.index(value)
    except TypeError:
        found = -1
    if found < 0:
        raise ValueError(f"{name} must be a whole number, 0 or more; got {value}.")
    return found


class Rule(ABC):
    """How a claim follows from its evidence, in one run: certificates are made and checked by it.

    Attributes:
        claims: the kind of claim.
        evidence: the kind of evidence.
    """

    claims: ClassVar[type[Claim]]
    evidence: ClassVar[type[Any]]

    @abstractmethod
    def claim(self, evidence: Any, near: Any = None) -> Claim:
        """Return what the evidence proves, no more and no less.

        Arguments:
            evidence: of one image.
            near: a claim of the same evidence that was computed elsewhere: what follows from one
                of its numbers is computed from that number, so that last digits agree.

        Raises:
            ValueError: it is no evidence that this run can have.
        """

    def check(self, found: Certificate) -> None:
        """Raise ValueError unless the claim is what its evidence, of this kind, proves."""
        try:
            for part, kind in ((found.claim, self.claims), (found.evidence, self.evidence)):
                if type(part) is not kind:
                    raise ValueError(f"{type(part).__name__} for a {kind.__name__}.")
            right = self.claim(found.evidence, found.claim)
        except ValueError as error:
            raise ValueError(f"image {found.index}: {error}") from None
        for name, value in vars(right).items():
            given = getattr(found.claim, name)
            if not same(given, value):
                raise ValueError(
                    f"image {found.index}: {name} is {given}, and its counts give {value}."
                )

    def read(self, body: Mapping[str, Any]) -> Certificate:
        """Return the certificate that `body` wrote, checked.

        Raises:
            ValueError: it is impossible, or does not follow from its evidence.
        """
        found = Certificate.of({**vars(self), **body}, self.claims, self.evidence)
        self.check(found)
        return found


class Certifier(Protocol):
    """Claims something of images, one at a time.

    Attributes:
        rule: by which its claims follow from its evidence.
        certifies: the classifier that they are about.
    """

    @property
    def rule(self) -> Rule: ...

    @property
    def certifies(self) -> str: ...

    def certify(self, image: Tensor, label: int, index: int) -> Certificate:
        """Return what can be claimed of an image, (C, H, W) in [0, 1].

        Arguments:
            image: to certify.
            label: its true class.
            index: its number in the test set.
        """
        ...


def same(given: Any, right: Any) -> bool:
    """Whether two numbers are equal, but for what another SciPy may have rounded otherwise."""
    if isinstance(given, float) and isinstance(right, float):
        return math.isclose(given, right, rel_tol=DRIFT)
    return bool(given == right)
