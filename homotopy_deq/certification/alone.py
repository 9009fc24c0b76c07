"""Whether votes depend on the batch in which they are cast."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .noise import Phase
from .smoother import Smoother

IMAGES, SAMPLES = 4, 64
"""Images looked at, and noise samples of each that are solved alone."""


@dataclass(frozen=True)
class Alone:
    """How many noise samples voted otherwise when they were solved alone.

    A model of several equilibria may find another one when the rounding of its products changes
    with the size of the batch; what is certified is then the network at that size.

    Arguments:
        samples: solved both ways.
        disagreements: those with another vote, undecided included.
        batch: samples that were solved together.
    """

    samples: int
    disagreements: int
    batch: int

    @classmethod
    @torch.no_grad()
    def of(cls, smoother: Smoother, images: Iterable[tuple[Tensor, int]]) -> Alone:
        """Solve noise samples of some images in a run's first batch, and some of them alone.

        Arguments:
            smoother: whose votes are looked at.
            images: (C, H, W) in [0, 1], each with its index.
        """
        policy, smoothing = smoother.policy, smoother.smoothing
        _, batch = next(smoothing.chunks(smoothing.n))
        chosen = np.unique(np.linspace(0, batch - 1, min(SAMPLES, batch), dtype=np.int64))
        samples = disagreements = 0
        for image, index in images:
            session = smoother.session(image)
            drawn = smoothing.noise.draw(index, Phase.ESTIMATE, 0, batch, image.shape)
            noisy = smoothing.noise.onto(image, drawn)
            together = policy.base(session, noisy)
            for k in chosen:
                disagreements += int(policy.base(session, noisy[k : k + 1])[0] != together[k])
            samples += len(chosen)
        return cls(samples, disagreements, batch)

    def __str__(self) -> str:
        return (
            f"{self.disagreements} of {self.samples} noise samples vote otherwise when they are "
            f"solved alone than in a batch of {self.batch}"
        )
