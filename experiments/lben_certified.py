"""What is certified of a network's test images, and how two networks differ on the same ones."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from homotopy_deq.adversary import project
from homotopy_deq.certification.attack import Attack, pgd
from homotopy_deq.lipschitz import EquilibriumNetwork, MarginProof
from solvers import Anderson, Implicit, PeacemanRachford

RADII = (36, 72, 108, 255)
"""Over 255, in the 2-norm of images in [0, 1]."""
LEVEL = 0.95
LOOSE = PeacemanRachford(step_size=0.5, rtol=1e-2, max_steps=50, accelerated=Anderson(memory=6))


def certified(
    network: nn.Module, images: Tensor, labels: Tensor, batch: int
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Certify every image, in double precision; return the figures and, for each image, its own.

    Arguments:
        network: of images in [0, 1], in double precision.
        images: uint8, (N, C, H, W).
        labels: (N,).
        batch: images at a time.
    """
    begin = time.perf_counter()
    proof = MarginProof(network)
    found = [proof(part.double() / 255) for part in images.split(batch)]
    radius = torch.cat([each.radius for each in found])
    guess = torch.cat([each.logits.argmax(1) for each in found])
    sure = torch.cat([each.prediction for each in found]) == labels
    slack = torch.cat([each.slack for each in found])
    own = {
        "right": (guess == labels).cpu().numpy(),
        "radius": torch.where(sure, radius, 0.0).cpu().numpy(),
        "claimed": radius.cpu().numpy(),
        "guess": guess.cpu().numpy(),
    }
    figures = {
        "constant before the head": proof.body.gamma,
        "largest slack": float(slack.amax()),
        "images": len(labels),
        "seconds to certify": round(time.perf_counter() - begin, 1),
        **{name: share(hits) for name, hits in hits_of(own).items()},
    }
    return figures, own


def hits_of(own: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return which images are right, and which are certified and right at each radius."""
    hits = {"clean": own["right"]}
    return hits | {f"{r}/255": own["radius"] > r / 255 for r in RADII}


def share(hits: np.ndarray) -> list[float]:
    """Return the share of images and its exact binomial band, in percent."""
    count, whole = int(hits.sum()), len(hits)
    band = binomtest(count, whole).proportion_ci(LEVEL, method="exact")
    return [round(100 * each, 2) for each in (count / whole, band.low, band.high)]


def attacked(
    network: nn.Module, images: Tensor, own: Mapping[str, np.ndarray], count: int
) -> dict[str, int]:
    """Look for another class inside the certified balls of the first images; none may be there.

    Arguments:
        network: as in `certified`. The attack follows it loosely and in single precision; its
            points are judged at the equilibria that certificates are of.
        images: uint8, (N, C, H, W).
        own: what `certified` returned.
        count: images that are attacked.
    """
    x = images[:count].double() / 255
    radius, guess = (torch.as_tensor(own[k][:count]).to(x.device) for k in ("claimed", "guess"))
    sure = radius > 0
    x, radius, guess = x[sure], radius[sure], guess[sure]
    if len(x) == 0:
        return {"attacked": 0, "found": 0}
    setting = Attack(steps=20, restarts=2, batch=128)
    worst = pgd(_loose(network), x.float(), guess, radius, setting)
    worst = project(worst.double(), x, radius * (1 - 1e-9))
    proof = MarginProof(network)
    there = torch.cat([proof(part).logits.argmax(1) for part in worst.split(128)])
    return {"attacked": len(x), "found": int((there != guess).sum())}


def _loose(network: nn.Module) -> nn.Module:
    """Return a copy in single precision that solves its equilibria and gradients loosely."""
    made = copy.deepcopy(network).float()
    for part in made.modules():
        if isinstance(part, EquilibriumNetwork):
            part.layer = part.layer.with_solver(LOOSE, Implicit(LOOSE))
            part.layer.on_failure = "ignore"
    return made


def paired(mine: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], seed: int) -> Any:
    """Compare two networks on the same test images, at each radius.

    McNemar's exact test of the images on which they differ, and the band of the difference by the
    paired bootstrap (of 10,000 draws of the images, of which only the two counts matter).
    """
    draw, found = np.random.default_rng(seed), {}
    for name, hits in hits_of(mine).items():
        others = hits_of(other)[name]
        gained, lost = int((hits & ~others).sum()), int((others & ~hits).sum())
        whole = len(hits)
        again = draw.multinomial(whole, [gained / whole, lost / whole, 1 - (gained + lost) / whole],
                                 10_000)  # fmt: skip
        low, high = np.quantile((again[:, 0] - again[:, 1]) / whole, [(1 - LEVEL) / 2,
                                                                      (1 + LEVEL) / 2])  # fmt: skip
        found[name] = {
            "gained": gained,
            "lost": lost,
            "points": round(100 * (gained - lost) / whole, 2),
            "band": [round(100 * float(low), 2), round(100 * float(high), 2)],
            "p": float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0,
        }
    return found


def verdict(tests: Mapping[str, Mapping[str, Any]], comparisons: int) -> str:
    """Say what the certified radii show of "improved", at 5% over all comparisons (Bonferroni)."""
    marks = []
    for name, test in tests.items():
        if name != "clean":
            sure = test["p"] < (1 - LEVEL) / comparisons
            marks.append((test["gained"] > test["lost"]) - (test["gained"] < test["lost"]) if sure
                         else 0)  # fmt: skip
    if any(marks) and min(marks) >= 0:
        return "improved"
    if any(marks) and max(marks) <= 0:
        return "worse"
    return "mixed" if any(marks) else "no difference seen"
