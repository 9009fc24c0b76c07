"""Attack certificates: a violated one is an error of ours, and nothing else finds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..adversary import distance, frozen
from .attack import Attack, Logits, check_balls, pgd, slices
from .noise import Noise, Phase

Vote = Callable[[Tensor], Tensor]
"""Maps images (B, C, H, W) to the class of each, (B,), -1 where it counts for none."""
Outcome = Literal["violated", "consistent", "undecided"]

INSIDE = 1 - 2.0**-20
"""Share of a certified radius that is attacked: certificates hold inside their ball."""
VOTES = 2**20
"""From this index on an image's noise for attacks votes; no search has seen it."""


class CertificateViolated(RuntimeError):
    """The classifier errs inside a ball in which it was certified."""


@dataclass(frozen=True)
class Trial:
    """What an attack inside one certified ball found.

    Arguments:
        image: its number.
        certified: the certified class.
        radius: the certified radius.
        distance: from the image to the adversarial point, below the radius.
        counts: votes of each class there; without noise one vote, the classifier's own.
        rival: the class that has most votes beside the certified one.
        pvalue: of these two classes being equally probable there, times the number of rivals that
            there might have been; 0 without noise.
        outcome: "violated" if the rival is more probable, "consistent" if the certified class
            is, "undecided" if the votes do not tell.
    """

    image: int
    certified: int
    radius: float
    distance: float
    counts: tuple[int, ...]
    rival: int
    pvalue: float
    outcome: Outcome


def attack_certificates(
    model: Logits,
    images: Tensor,
    labels: Tensor,
    radii: Tensor | Sequence[float],
    sigma: float | None,
    attack: Attack = Attack(),  # noqa: B008
    *,
    votes: int = 1000,
    level: float = 1e-3,
    vote: Vote | None = None,
    keys: Sequence[int] | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[Trial]:
    """Attack a classifier, or its smoothed version, inside certified l2 balls; say where one fails.

    `pgd` goes as far as `INSIDE` the radius; at the point that it finds the classes are
    counted under fresh noise, or without noise the class is asked for. `require_consistent` raises
    for what is violated. A certificate by votes may itself be wrong with the alpha that it was made
    with: one violation in many is not yet proof of a fault, but is to be looked into.

    Arguments:
        model: logits, for the search.
        images: (B, C, H, W), as certified.
        labels: (B,), the certified classes; leave abstentions out.
        radii: (B,), the certified radii, above 0.
        sigma: the noise of the certificates; None of what holds for certain.
        attack: how to search.
        votes: noise samples an image to count classes.
        level: probability of any "violated" where every certificate holds, at most.
        vote: the classifier that was certified; by default the model's largest logit.
        keys: the images' numbers, which decide their noise; 0, 1, ... by default.
        advance: told the number of images done.

    Raises:
        ValueError: as in `pgd`; or a radius is not above 0, or a certified class is negative.
    """
    where = torch.as_tensor(radii, dtype=torch.float64)
    balls, named = check_balls(images, labels, where, keys)
    if len(images) and not (bool((balls > 0).all()) and int(labels.min()) >= 0):
        raise ValueError(
            "every certificate must have a class and a radius above 0; leave abstentions out."
        )
    if votes < 1 or not 0 < level < 1:
        raise ValueError(f"votes must be at least 1 and level in (0, 1); got {votes} and {level}.")
    noise = None if sigma is None else Noise(sigma, attack.seed)
    size = attack.batch if noise is None else attack.batch // attack.draws
    trials: list[Trial] = []
    for rows in slices(len(images), size):
        some = named[rows]
        group = images[rows], labels[rows], INSIDE * balls[rows]
        points = pgd(model, *group, attack, sigma=sigma, keys=some)
        far = distance(points, images[rows]).tolist()
        for k, point, away, key in zip(range(len(images))[rows], points, far, some, strict=True):
            counts = _count(model, vote, point, noise, key, votes, attack.batch)
            ball = key, int(labels[k]), float(balls[k]), away
            share = None if noise is None else level / len(images)
            trials.append(_judge(*ball, counts, share))
        if advance is not None:
            advance(len(some))
    return trials


def require_consistent(trials: Sequence[Trial]) -> None:
    """Raise `CertificateViolated` if an attack has refuted a certificate, and say which."""
    wrong = [trial for trial in trials if trial.outcome == "violated"]
    if wrong:
        shown = "\n".join(
            f"  image {t.image}: certified class {t.certified} within {t.radius:.6g}, but at "
            f"{t.distance:.6g} class {t.rival} has {t.counts[t.rival]} votes and class "
            f"{t.certified} {t.counts[t.certified]} (p = {t.pvalue:.1e})"
            for t in wrong
        )
        raise CertificateViolated(
            f"{len(wrong)} of {len(trials)} certificates are violated:\n{shown}\nThey must not be "
            "published: check that model, sigma and base classifier are those of the certification."
        )


def _count(
    model: Logits,
    vote: Vote | None,
    point: Tensor,
    noise: Noise | None,
    key: int,
    votes: int,
    batch: int,
) -> list[int]:
    """Count the votes of each class at one point, (C, H, W), under fresh noise or without any."""

    def largest(images: Tensor) -> Tensor:
        return model(images).argmax(1)

    cast = largest if vote is None else vote
    with frozen(model), torch.no_grad():
        total = np.zeros(model(point[None]).shape[1], np.int64)
        for start in range(0, 1 if noise is None else votes, batch):
            stop, moved = min(start + batch, votes), point[None]
            if noise is not None:
                drawn = noise.draw(key, Phase.ATTACK, VOTES + start, VOTES + stop, point.shape)
                moved = point + drawn.to(point)
            labels = cast(moved).cpu().numpy()
            total += np.bincount(labels[labels >= 0], minlength=len(total))
    return [int(n) for n in total]


def _judge(
    image: int, certified: int, radius: float, away: float, counts: list[int], level: float | None
) -> Trial:
    """Compare the certified class with the one that has most votes beside it.

    Without a level one vote tells.
    """
    from scipy.stats import binomtest

    others = [-1 if k == certified else n for k, n in enumerate(counts)]
    rival = int(np.argmax(others))
    pair = counts[certified] + counts[rival]
    # The rival was chosen by the votes that test it, hence the factor (Bonferroni).
    chance = binomtest(counts[rival], pair, 0.5).pvalue * (len(counts) - 1) if pair else 1.0
    chance = 1.0 - bool(pair) if level is None else chance
    outcome: Outcome = "undecided"
    if chance <= (level or 0.0):
        outcome = "violated" if counts[rival] > counts[certified] else "consistent"
    return Trial(
        image, certified, radius, away, tuple(counts), rival, min(1.0, float(chance)), outcome
    )
