"""Certify by proofs that need no samples: Lipschitz constants in l2, intervals in l-infinity."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..lipschitz import BoxProof, MarginProof, gain_found
from ..lipschitz import Margin as How
from .certificate import Certificate, Rule
from .evidence import Interval, Intervals, Lipschitz, Margin
from .requirements import looked

FAR = 1e300
"""Stands for what is infinite or no number: JSON has neither, and no claim follows from it."""


class Prover(ABC):
    """A `Certifier` of classifiers that consist of what `homotopy_deq.lipschitz` knows.

    Its claims are about the map of the stored weights in exact arithmetic, at exact equilibria.

    Arguments:
        network: images (B, C, H, W) to logits (B, K), such as `ImageModel.network()`: whatever
            normalises images is a part of it, as radii are in units of the images.
        shape: (C, H, W).

    Raises:
        ValueError: a part is not known, or not with such bounds; names it and says why.
    """

    rule: ClassVar[Rule]
    certifies: str = "the classifier of the stored weights at the exact equilibrium"

    def __init__(self, network: nn.Module, shape: Sequence[int]) -> None:
        self.network = copy.deepcopy(network).double()
        like = next(network.parameters(), torch.zeros(0))
        self.evidence(torch.zeros(1, *shape, device=like.device))

    @abstractmethod
    def evidence(self, images: Tensor) -> list[Any]:
        """Return what is proved of each image, (B, C, H, W)."""

    def certify(self, image: Tensor, label: int, index: int) -> Certificate:
        """Return what is proved of an image, (C, H, W); see `Certifier`."""
        (found,) = self.certify_all(image[None], [label], [index])
        return found

    def certify_all(
        self, images: Tensor, labels: Sequence[int], indices: Sequence[int]
    ) -> list[Certificate]:
        """Return what is proved of images, (B, C, H, W), that are looked at together.

        Raises:
            ValueError: they are integers, in whose units no radius is meant, or the network does
                not take them.
        """
        if not images.is_floating_point():
            raise ValueError(f"images must be floating point in [0, 1]; got {images.dtype}.")
        found = looked(self.evidence, images)
        return [
            Certificate(index, label, self.rule.claim(seen), seen, evaluations=1)
            for seen, label, index in zip(found, labels, indices, strict=True)
        ]


class LipschitzProver(Prover):
    """Prove radii in l2 by margins of logits and the Lipschitz constants of their differences.

    Arguments:
        network: as in `Prover`.
        shape: as in `Prover`.
        margin: as in `MarginProof`.
    """

    rule = Lipschitz()

    def __init__(self, network: nn.Module, shape: Sequence[int], margin: How = How.GLOBAL) -> None:
        self.proof = MarginProof(network, margin)
        super().__init__(network, shape)

    def evidence(self, images: Tensor) -> list[Margin]:
        found = self.proof(images)
        return _each(Margin, found.logits.argmax(1), found.margin, found.gain)

    def classes(self, images: Tensor) -> Tensor:
        """Return the class of each image, (B,), at equilibria as exact as they are certified."""
        return self.proof(images).logits.argmax(1)

    def tightness(self, images: Tensor) -> tuple[float, float]:
        """Return the largest slope of a difference of logits that is found, and the bound there.

        The first is a lower bound that says how much a better proof could gain. It proves nothing.
        """
        found = self.proof(images)
        ahead = _Ahead(self.network, found.logits.argmax(1), found.rival)
        slope = gain_found(ahead, images.double(), steps=20)
        best = int(slope.argmax())
        return float(slope[best]), float(found.gain[best])


class IntervalProver(Prover):
    """Prove radii in l-infinity by interval bounds of the differences of logits.

    Arguments:
        network: as in `Prover`.
        shape: as in `Prover`.
    """

    rule = Intervals()

    def __init__(self, network: nn.Module, shape: Sequence[int]) -> None:
        self.proof = BoxProof(network)
        super().__init__(network, shape)

    def evidence(self, images: Tensor) -> list[Interval]:
        found = self.proof(images)
        return _each(Interval, found.prediction, found.margin, found.radius)


PROVERS: Mapping[str, type[Prover]] = {"lipschitz": LipschitzProver, "ibp": IntervalProver}
"""By the names that journals give their rules, see `evidence.BOUNDS`."""


class _Ahead(nn.Module):
    """How far one logit of each image is ahead of another."""

    def __init__(self, network: nn.Module, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.network, self.first, self.second = network, first[:, None], second[:, None]

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        ahead: Tensor = logits.gather(1, self.first) - logits.gather(1, self.second)
        return ahead


def _each(kind: type[Any], selected: Tensor, margin: Tensor, last: Tensor) -> list[Any]:
    margin = margin.masked_fill(~last.isfinite(), -FAR)
    finite = margin.nan_to_num(nan=-FAR, posinf=FAR, neginf=-FAR)
    bound = last.nan_to_num(nan=FAR, posinf=FAR)
    columns = (t.tolist() for t in (selected, finite, bound))
    return [kind(*row) for row in zip(*columns, strict=True)]
