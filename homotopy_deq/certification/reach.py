"""What so many samples can prove at best: a run that could only abstain is not begun."""

from __future__ import annotations

from .policies import Policy
from .sequence import BettingSequence, Decision, betting_lower
from .statistics import floor_radius, required_probability
from .statistics import radius as radius_of


def check_reach(policy: Policy, n: int, alpha: float) -> None:
    """Raise ValueError unless n samples that all agree certify a class."""
    best = policy.reach(n, alpha)
    if best <= 0.5:
        more = (k for k in range(n + 1, 2 * n + 64) if policy.reach(k, alpha) > 0.5)
        enough = next(more, None)
        advice = f"n={enough} or more" if enough else "a larger n= or audit="
        raise ValueError(
            f"{n} samples that all agree bound the probability of a class by {best:.3f} at alpha "
            f"{alpha:g}, and a certificate needs more than 0.5: every image would abstain. Give "
            f"{advice}."
        )


def check_radius(radius: float, deviation: float, n: int, alpha: float) -> None:
    """Raise ValueError unless n samples that all agree certify the radius."""
    bets = BettingSequence(required_probability(radius, deviation), alpha)
    if bets.at(n, n).decision != Decision.CERTIFIED:
        best = floor_radius(radius_of(betting_lower(n, n, alpha), deviation))
        raise ValueError(
            f"{n} samples that all agree prove a radius of {best:g} at sigma {deviation:g} and "
            f"alpha {alpha:g}: radius {radius:g} would be certified for no image. Ask for less, or "
            "give more noise or a larger n=."
        )


def check_majority(n: int, alpha: float) -> None:
    """Raise ValueError unless n samples that all agree tell the first class from the second."""
    if 2 * 0.5**n > alpha:
        enough = next(k for k in range(n + 1, n + 2000) if 2 * 0.5**k <= alpha)
        raise ValueError(
            f"{n} samples that all agree do not tell two classes apart at alpha {alpha:g}: every "
            f"image would abstain. Give n={enough} or more."
        )
