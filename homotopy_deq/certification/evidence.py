"""What a certificate must follow from: all that is claimed, computed again from its counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .binomial import clopper_pearson
from .certificate import ABSTAIN, Certificate
from .noise import Noise
from .sequence import BettingSequence, Decision
from .statistics import audited_lower, radius, required_probability

STOPS = {
    Decision.CERTIFIED: "certified",
    Decision.FUTILE: "futile",
    Decision.UNDECIDED: "all samples drawn",
}
DRIFT = 1e-9
"""Relative difference to what another SciPy may have computed; each bound is lowered by as much."""


@dataclass(frozen=True)
class Evidence:
    """The rule by which a run's claims follow from the counts of an image.

    Arguments:
        sigma: the deviation of the noise that radii may be computed with.
        alpha: of a certificate.
        samples: to estimate with.
        policy: its name; "audited" has bounds of its own.
        asked: the one radius that is decided on, or None.
    """

    sigma: float
    alpha: float
    samples: int
    policy: str = "converged"
    asked: float | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Evidence:
        """Read the rule from what decides a run's results, see `Journal`."""
        noise = config["smoothing"]
        policy, asked = config["policy"]["name"], config.get("radius")
        drawn = Noise(noise["sigma"], discrete=noise.get("discrete", False))
        return cls(drawn.deviation, noise["alpha"], noise["n"], policy, asked)

    def check(self, found: Certificate) -> None:
        """Raise ValueError unless the certificate is what its counts prove, no more and no less."""
        found.check()
        lower, reach, stop = self._claim(found)
        drawn = self.samples if stop == STOPS[Decision.UNDECIDED] else found.samples
        wanted = {
            "lower": (found.lower, lower),
            "radius": (found.radius, reach),
            "prediction": (found.prediction, found.detail.get("selected") if reach else ABSTAIN),
            "stop": (found.stop, stop),
            "samples": (found.samples, min(drawn, self.samples)),
        }
        for name, (given, right) in wanted.items():
            if not _same(given, right):
                raise ValueError(
                    f"image {found.index}: {name} is {given}, and its counts give {right}."
                )

    def _claim(self, found: Certificate) -> tuple[float, float, str]:
        """Return lower bound, radius and reason to stop, as the counts give them."""
        votes, samples, detail = found.votes, found.samples, found.detail
        if self.asked is not None:
            threshold = required_probability(self.asked, self.sigma)
            bets = BettingSequence(threshold, self.alpha).at(votes, samples)
            certified = bets.decision == Decision.CERTIFIED
            return bets.lower(), self.asked if certified else 0.0, STOPS[bets.decision]
        if self.policy != "audited":
            lower = clopper_pearson(votes, samples, self.alpha)
        elif detail.get("audited") == 0:
            lower = 0.0
        else:
            looked, wrong = (detail.get(name) for name in ("audited", "disagreements"))
            lower, _ = audited_lower(votes, samples, looked, wrong, self.alpha)  # type: ignore[arg-type]
        # The radius follows from the bound as it is stored, so that their last digits agree.
        near = found.lower if _same(found.lower, lower) else lower
        return lower, radius(near, self.sigma), STOPS[Decision.UNDECIDED]


def _same(given: Any, right: Any) -> bool:
    if isinstance(given, float) and isinstance(right, float):
        return math.isclose(given, right, rel_tol=DRIFT)
    return bool(given == right)
