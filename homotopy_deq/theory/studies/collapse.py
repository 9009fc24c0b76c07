"""Neural collapse: of the ideal network, and of a DEQ and its explicit peer on the digits."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from ...data import load
from ..features import UnconstrainedFeatures
from ..neural_collapse import CollapseMeter, make_imbalanced, minority_cosine
from ..paired import paired
from ..peers import Descent, Sizes, deq_peer, explicit_peer, right_by_class
from .study import Advance, Claim, Part, Result

GAINS, RATIOS = (1.0, 2.0, 10.0), (1, 10, 50, 100, 1000, 10_000)
CLASSES, DIMENSION, DECAY = 6, 8, 5e-3
"""Of the ideal networks; half of the classes are the minority."""
PEERS = ("deq", "explicit", "explicit, decay / gain")


@dataclass(frozen=True)
class CollapseStudy:
    """Minimise the layer-peeled loss over free features, and train networks by it.

    Arguments:
        steps: of the optimiser on imbalanced classes; balanced ones get twice as many.
        most: images of each class, or of each of the majority's.
        ratio: R of the imbalanced classes, five against five.
        decay: of the trained networks.
        contraction: rho of the DEQ, whose gain is 1 / (1 - rho).
        seeds: trained networks of a kind.
        seed: of the first.

    References:
        H. Sun, Y. Shi (2024), Understanding representation of deep equilibrium models from neural
        collapse perspective. Its networks and images are others: see experiments.neural_collapse.
    """

    name: ClassVar[str] = "collapse"

    steps: int = 300
    most: int = 100
    ratio: int = 50
    decay: float = 2e-2
    contraction: float = 0.9
    seeds: int = 3
    seed: int = 0

    def parts(self) -> Mapping[str, Part]:
        """Return the parts by name."""
        return {
            "ideal": Part(len(GAINS) * len(RATIOS), self._ideal),
            "balanced": Part(2, self._balanced),
            "imbalanced": Part(len(PEERS) * self.seeds, self._imbalanced),
        }

    def _ideal(self, advance: Advance) -> Result:
        """Minimise over free features, for each gain and ratio."""
        half = CLASSES // 2
        few = list(range(half, CLASSES))
        found: Result = {}
        for gain in GAINS:
            rows = []
            for ratio in RATIOS:
                sizes = (float(ratio),) * half + (1.0,) * half
                w, h, least = UnconstrainedFeatures(sizes, DIMENSION, DECAY, gain).solve()
                weak = UnconstrainedFeatures(sizes, DIMENSION, DECAY / gain).solve()
                row: Result = {"ratio": ratio, "cosine": minority_cosine(w, few), "loss": least,
                       "explicit of decay / gain": minority_cosine(weak[0], few)}  # fmt: skip
                if ratio == 1:
                    meter = CollapseMeter(CLASSES)
                    meter.update(h, torch.arange(CLASSES))
                    row |= meter.compute(w).figures()
                    row["bound"] = UnconstrainedFeatures(
                        sizes, DIMENSION, DECAY, gain
                    ).balanced_optimum()[1]
                rows.append(row)
                advance(1)
            found[f"{gain:g}"] = rows
        return found

    def _balanced(self, advance: Advance) -> Result:
        """Train on equal classes."""
        return {peer: self._trained(peer, 1, self.seed, advance) for peer in PEERS[:2]}

    def _imbalanced(self, advance: Advance) -> Result:
        """Train on unequal classes."""
        return {
            peer: [self._trained(peer, self.ratio, self.seed + k, advance)
                   for k in range(self.seeds)]
            for peer in PEERS
        }  # fmt: skip

    def _trained(self, peer: str, ratio: int, seed: int, advance: Advance) -> Result:
        data = self._data
        classes, half = data.num_classes, data.num_classes // 2
        chosen = make_imbalanced(
            data.train_labels, ratio, half, classes - half, most=self.most, seed=seed
        )
        sizes = Sizes(data.shape, classes, channels=8, contraction=self.contraction)
        network = (deq_peer if peer == "deq" else explicit_peer)(sizes, seed)
        gain = 1 / (1 - self.contraction)
        decay = self.decay / (gain if peer == PEERS[2] else 1.0)
        few = list(range(half, classes)) if ratio > 1 else None
        descent = Descent(self.steps * (2 if ratio == 1 else 1), decay=decay, seed=seed)
        points = descent.train(network, data.train_images[chosen], data.train_labels[chosen], few)
        right = right_by_class(network, data.test_images, data.test_labels)
        many = [float(ratio)] * half + [1.0] * (classes - half)
        ideal = UnconstrainedFeatures(tuple(many), classes, decay, gain if peer == "deq" else 1.0)
        bound = ideal.balanced_optimum()[1] if ratio == 1 else ideal.solve()[2]
        advance(1)
        return {
            "points": points,
            "bound": bound,
            "parameters": sum(p.numel() for p in network.parameters()),
            "majority": statistics.fmean(right[:half]),
            "minority": statistics.fmean(right[half:]),
            "overall": statistics.fmean(right),
        }

    @cached_property
    def _data(self) -> Any:
        return load("digits")

    def claims(self, found: Mapping[str, Result]) -> Sequence[Claim]:
        """Return the verdicts."""
        ideal, trained, unequal = found["ideal"], found["balanced"], found["imbalanced"]
        equal = [rows[0] for rows in ideal.values()]
        gap = max(abs(row["loss"] - row["bound"]) for row in equal)
        away = max(max(row["nc2_means"], row["nc2_weights"], row["nc3"]) for row in equal)
        first = {gain: next(r["ratio"] for r in rows if r["cosine"] > 0.99)
                 for gain, rows in ideal.items()}  # fmt: skip
        cosines = list(zip(*([row["cosine"] for row in rows] for rows in ideal.values()),
                           strict=True))  # fmt: skip
        later = all(a >= b - 1e-6 for row in cosines for a, b in zip(row, row[1:], strict=False))
        same = max(abs(row["cosine"] - row["explicit of decay / gain"])
                   for rows in ideal.values() for row in rows)  # fmt: skip
        runs = [*trained.values(), *(run for some in unequal.values() for run in some)]
        above = min(run["points"][-1]["objective"] / run["bound"] for run in runs)
        claims = [
            Claim("equal classes: the bound of the loss is attained", f"to {gap:.0e}", gap < 1e-9),
            Claim("... by a simplex whose classifiers are its means", f"NC2, NC3 {away:.0e}",
                  away < 1e-3),
            Claim("the gain of a DEQ delays the collapse of the minority",
                  ", ".join(f"gain {g}: R = {r:,}" for g, r in first.items()), later),
            Claim("... as would a decay that is weaker by the gain", f"cosines to {same:.0e}",
                  same < 1e-3),
            Claim("trained networks stay above the bound", f"at least {above:.2f} of it",
                  above >= 1),
        ]  # fmt: skip
        for peer, run in trained.items():
            last = run["points"][-1]
            claims += [
                Claim(f"{peer}: no error, and the nearest mean decides (NC4)",
                      f"{last['error']:.1%}, {last['nc4']:.1%} differ",
                      last["error"] == 0 and last["nc4"] < 0.01),
                Claim(f"{peer}: classes shrink to their means (NC1)", f"{last['nc1']:.3f}",
                      last["nc1"] < 0.05),
                Claim(f"{peer}: means at the vertices of a simplex (NC2, 5%)",
                      f"{last['nc2_means']:.3f}", last["nc2_means"] < 0.05),
                Claim(f"{peer}: classifiers along the means (NC3, 5%)", f"{last['nc3']:.3f}",
                      last["nc3"] < 0.05),
            ]  # fmt: skip
        for other in PEERS[1:]:
            pairs = zip(unequal["deq"], unequal[other], strict=True)
            band = paired([100 * (a["minority"] - b["minority"]) for a, b in pairs])
            low, high = band["band"] or (float("nan"), float("nan"))
            claims.append(
                Claim(
                    f"R = {self.ratio}: the DEQ is better on the minority than {other}",
                    f"{band['mean']:+.1f} points, 95% [{low:+.1f}, {high:+.1f}]",
                    band["verdict"] == "better",
                )
            )
        return claims
