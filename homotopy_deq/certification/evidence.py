"""The kinds of evidence, and the rules by which claims follow from them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from .certificate import ABSTAIN, Certain, Probable, Rule, same
from .noise import Noise
from .sequence import BettingSequence, Decision
from .statistics import audited_lower, clopper_pearson, radius, required_probability

STOPS = {
    Decision.CERTIFIED: "certified",
    Decision.FUTILE: "futile",
    Decision.UNDECIDED: "all samples drawn",
}


@dataclass(frozen=True)
class Tally:
    """The votes of noise samples.

    Arguments:
        selected: the class that is voted on.
        votes: samples counted for it.
        undecided: samples that count for no class: not converged, or not proven.
        samples: drawn to estimate.
        audited: votes for the class that were solved again in full; None without an audit.
        disagreements: of these, those that turned out otherwise.

    Raises:
        ValueError: for counts that cannot go together.
    """

    selected: int
    votes: int
    undecided: int
    samples: int
    audited: int | None = None
    disagreements: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.votes <= self.samples - self.undecided:
            raise ValueError(
                f"{self.votes} votes and {self.undecided} undecided of {self.samples} samples are "
                "impossible."
            )

    def lower(self, alpha: float) -> float:
        """Return the lower bound on the probability of the class."""
        if self.audited is None:
            return clopper_pearson(self.votes, self.samples, alpha)
        if self.audited == 0:
            return 0.0
        counts = self.votes, self.samples, self.audited, self.disagreements or 0
        return audited_lower(*counts, alpha)[0]


@dataclass(frozen=True)
class Sampling(Rule):
    """What votes prove of a smoothed classifier, by `Tally.lower` or, of one radius, by a bet.

    Arguments:
        deviation: of the noise, that radii may be computed with.
        alpha: of a certificate.
        planned: samples to estimate with.
        audits: whether votes count only after an audit.
        asked: the one radius that is decided on, or None.
    """

    claims: ClassVar = Probable
    evidence: ClassVar = Tally

    deviation: float
    alpha: float
    planned: int
    audits: bool = False
    asked: float | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Sampling:
        """Read the rule from what decides a run's results, see `Journal`."""
        noise = config["smoothing"]
        drawn = Noise(noise["sigma"], discrete=noise.get("discrete", False))
        audits = config["policy"]["name"] == "audited"
        return cls(drawn.deviation, noise["alpha"], noise["n"], audits, config.get("radius"))

    def claim(self, evidence: Tally, near: Probable | None = None) -> Probable:
        if (evidence.audited is not None) != self.audits:
            raise ValueError(f"audited is {evidence.audited}: an audit and its policy go together.")
        if self.asked is None:
            lower, stop = evidence.lower(self.alpha), Decision.UNDECIDED
            if near is not None and same(near.lower, lower):
                lower = near.lower
            reach = radius(lower, self.deviation)
        else:
            threshold = required_probability(self.asked, self.deviation)
            bets = BettingSequence(threshold, self.alpha).at(evidence.votes, evidence.samples)
            lower, stop = bets.lower(), bets.decision
            reach = self.asked if stop == Decision.CERTIFIED else 0.0
        drawn = self.planned if stop == Decision.UNDECIDED else evidence.samples
        if evidence.samples != min(drawn, self.planned):
            raise ValueError(f"samples is {evidence.samples}, and the run draws {self.planned}.")
        prediction = evidence.selected if reach else ABSTAIN
        return Probable(prediction, reach, lower, STOPS[stop], self.alpha)


@dataclass(frozen=True)
class Margin:
    """A margin that no rival closes faster than at a known rate.

    Arguments:
        selected: the class.
        margin: its logit less the rival's, all slack taken off, of the rival that is nearest.
        gain: Lipschitz constant of that difference, above 0.
    """

    selected: int
    margin: float
    gain: float
    samples: ClassVar[int] = 1
    undecided: ClassVar[int] = 0


@dataclass(frozen=True)
class Lipschitz(Rule):
    """A class holds within margin / gain, in l2."""

    claims: ClassVar = Certain
    evidence: ClassVar = Margin

    def claim(self, evidence: Margin, near: Certain | None = None) -> Certain:
        if not evidence.gain > 0:
            raise ValueError(f"a gain must be above 0; got {evidence.gain}.")
        reach = max(0.0, evidence.margin / evidence.gain * (1 - 2.0**-52))  # rounded down
        reach = min(reach, sys.float_info.max)
        return Certain(evidence.selected if reach else ABSTAIN, reach)


@dataclass(frozen=True)
class Interval:
    """What intervals prove over a box, of all images within `box` of one in each entry.

    Arguments:
        selected: the class.
        margin: its logit less any other's is at least this over the box.
        box: half of its side, 0 or more.
    """

    selected: int
    margin: float
    box: float
    samples: ClassVar[int] = 1
    undecided: ClassVar[int] = 0


@dataclass(frozen=True)
class Intervals(Rule):
    """A class holds over a box with a margin above 0, in linf."""

    claims: ClassVar = Certain
    evidence: ClassVar = Interval

    def claim(self, evidence: Interval, near: Certain | None = None) -> Certain:
        reach = evidence.box if evidence.margin > 0 else 0.0
        return Certain(evidence.selected if reach else ABSTAIN, reach, norm="linf")


BOUNDS: Mapping[str, type[Rule]] = {"lipschitz": Lipschitz, "ibp": Intervals}
"""Rules of claims that are certain, by what a journal names them."""


def rule_of(config: Mapping[str, Any]) -> Rule:
    """Return the rule of a run, by what its settings say: `bound`, or else `smoothing`."""
    if "bound" not in config:
        return Sampling.of(config)
    if (name := config["bound"]) not in BOUNDS:
        raise ValueError(f"bound must be {' or '.join(BOUNDS)}; got {name}: another version's?")
    return BOUNDS[name]()
