"""What is certified by noise, and which votes count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .declare import at_least, described, like, setting
from .model import Limits

SELECTING = 100
"""Noise samples that select the class of an image, by default."""
DECIDING = 10
"""As many for a decision at one radius, which an easy image takes some 50 samples for."""


@described
@dataclass(frozen=True)
class NoiseSettings:
    """The smoothed classifier, and how often it is asked."""

    PANEL: ClassVar[str] = "The noise"

    sigmas: list[float] | None = setting(
        None,
        "Standard deviation of the noise, in units of images in [0, 1]; once or more, each by "
        "itself (certify and decide: in a folder sigma-SIGMA). Default: the training's --noise.",
        option="sigma",
        metavar="SIGMA",
    )
    n: int = setting(
        10_000,
        "Noise samples an image to estimate with. Under torchrun write --samples.",
        also="samples",  # torchrun takes --n for the start of an option of its own
    )
    alpha: float = setting(1e-3, "Probability, at most, that the answer for an image is wrong.")
    seed: int = setting(
        0,
        "Of the noise: each sample is a function of it, the image and its number, whatever the "
        "batch, the processes and the interruptions.",
    )
    discrete: bool = setting(
        False,
        "Round noise to whole steps of 1/255, as 8-bit images are: no rounding of sums then "
        "stands between the sampled and the certified classifier. Certifies the classifier that "
        "rounds its input so.",
    )


PROVED = (
    "verified (count what a bound proves of the exact equilibrium), converged (count what is "
    "solved to the tolerance) or truncated (certify the network of --steps steps itself)"
)
QUALIFIES = "Default: verified where the model qualifies, else converged."


@described
@dataclass(frozen=True)
class Votes:
    """Which votes count, and how they are solved for; None stands for the policy's own."""

    PANEL: ClassVar[str] = "Which votes count, and what they cost"

    policy: str | None = setting(None, f"{PROVED}. {QUALIFIES}")
    warm_start: str | None = setting(
        None,
        "Where a sample's solve starts: none (the model's own start), clean (the image's "
        "equilibrium), tangent (its first-order prediction), serial (where the batch before "
        "ended) or along:T (the image's own path at time T). Default: the policy's: one from the "
        "clean image for verified, none for converged and truncated.",
    )
    steps: int | None = setting(
        None, "Solver steps of a policy that stops there. Default: 3.", metavar="S"
    )
    solver: str | None = setting(
        None,
        "Forward pass, as in evaluate. It is part of what is certified; but verified certifies the "
        "exact equilibrium, by whatever solver evaluates the map at its iterates. Default: that of "
        "the training; for verified anderson, or a splitting where ||W|| is 2 or more.",
    )
    rtol: float | None = like(Limits, "rtol")
    max_steps: int | None = like(Limits, "max_steps")
    batch: int | None = setting(
        None,
        "Noise samples solved for at a time. Default: by the size of a state, 100 to 4000.",
        at_least(1),
    )


@described
@dataclass(frozen=True)
class AuditedVotes(Votes):
    """As `Votes`, where all samples are drawn before they are judged."""

    policy: str | None = setting(
        None,
        f"{PROVED}; or audited (short solves from where the batch before ended, a random part done "
        f"again in full). {QUALIFIES}",
    )
    audit: int | None = setting(
        None, "Samples that audited solves again in full. Default: 1000.", metavar="K"
    )
