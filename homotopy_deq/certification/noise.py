"""Gaussian noise that is a function of its place, not of the order in which it is drawn."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

BLOCK = 64
"""Samples drawn by one generator; a sample's noise is a function of its block and place in it."""


class Phase(IntEnum):
    """What a noise sample is for; each phase has noise of its own."""

    SELECT = 0
    ESTIMATE = 1
    ATTACK = 2


@dataclass(frozen=True)
class Noise:
    """N(0, sigma^2 I) noise keyed by (seed, image, phase, index).

    Sample i of an image is the same whatever the batch size, the process that draws it, the order,
    and how often a run was interrupted. It is drawn on the CPU, in single precision, by NumPy's
    counter-based Philox generator, so it is also the same on every device.

    Arguments:
        sigma: standard deviation in input units, above 0.
        seed: of the run, 0 or more.

    Raises:
        ValueError: sigma is not above 0, or the seed is negative.
    """

    sigma: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and np.isfinite(self.sigma)):
            raise ValueError(f"sigma must be above 0, in input units; got {self.sigma}.")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more; got {self.seed}.")

    def draw(self, image: int, phase: Phase, start: int, stop: int, shape: Sequence[int]) -> Tensor:
        """Return the samples start..stop-1, (stop - start, *shape), on the CPU."""
        first, last = start // BLOCK, -(-stop // BLOCK)
        blocks = [self._block(image, phase, k, shape) for k in range(first, last)]
        drawn = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        return torch.from_numpy(drawn[start - first * BLOCK : stop - first * BLOCK])

    def stream(
        self, image: int, phase: Phase, ranges: Iterable[tuple[int, int]], shape: Sequence[int]
    ) -> Generator[Tensor, None, None]:
        """Yield the samples of ranges (start, stop) in turn, as `draw` does.

        The next are drawn by another thread while the last are in use, as NumPy draws without
        holding the interpreter: on a second core, or beside a GPU, noise takes no time.
        """
        with ThreadPoolExecutor(1) as pool:
            ahead: Future[Tensor] | None = None
            for start, stop in ranges:
                coming = pool.submit(self.draw, image, phase, start, stop, shape)
                if ahead is not None:
                    yield ahead.result()
                ahead = coming
            if ahead is not None:
                yield ahead.result()

    def pick(self, image: int, phase: Phase, index: np.ndarray, shape: Sequence[int]) -> Tensor:
        """Return the samples of ascending indices, (len(index), *shape), on the CPU."""
        out = np.empty((len(index), *shape), np.float32)
        for k in np.unique(index // BLOCK):
            chosen = index // BLOCK == k
            out[chosen] = self._block(image, phase, int(k), shape)[index[chosen] % BLOCK]
        return torch.from_numpy(out)

    def _block(self, image: int, phase: Phase, block: int, shape: Sequence[int]) -> np.ndarray:
        key = np.random.SeedSequence([self.seed, image, int(phase), block])
        generator = np.random.Generator(np.random.Philox(key))
        drawn = generator.standard_normal((BLOCK, *shape), dtype=np.float32)
        drawn *= np.float32(self.sigma)
        return drawn

    def generator(self, image: int, phase: Phase, what: str) -> np.random.Generator:
        """Return a generator for other random choices about an image, such as whom to audit."""
        words = [self.seed, image, int(phase), *what.encode()]
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
