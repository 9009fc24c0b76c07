"""Gaussian noise that is a function of its place, not of the order in which it is drawn."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from .certificate import whole

LEVELS = 255
"""Steps of the grid of 8-bit images, 0 to 255, over [0, 1]."""
LARGEST = 1000.0
"""Deviation on the grid: whole numbers of steps are exact in single precision up to 2^24."""
BLOCK = 64
"""Samples drawn by one generator; a sample's noise is a function of its block and place in it."""

GOLDEN = 0x9E3779B1
"""2^32 over the golden ratio: seeds of neighbouring blocks lie far apart (Knuth, 6.4)."""


class Phase(IntEnum):
    """What a noise sample is for; each phase has noise of its own."""

    SELECT = 0
    ESTIMATE = 1
    ATTACK = 2


@dataclass(frozen=True)
class Noise:
    """N(0, sigma^2 I) noise keyed by (seed, image, phase, index).

    Sample i of an image is the same whatever the batch size, the process that draws it, the order,
    and how often a run was interrupted. It is drawn on the CPU, so it is also the same on every
    device, by torch's Mersenne twister, 2.7 times faster than NumPy's Philox. The blocks of an
    image and phase have different seeds, whatever their number. Another version of torch, or a
    processor without AVX2, may round the last digit of a sample otherwise.

    In single precision x + e is rounded, so that its last digits may tell what x was, and no
    theorem about N(x, sigma^2 I) is about them. `discrete` noise is a whole number of steps of
    1/255, drawn by Philox in double precision and rounded once. With an image k/255 the sum
    (k + round(255 e)) / 255 = round(255 (x + e)) / 255 is exact: it is what the classifier
    h(round(255 y) / 255) sees at y = x + e, and whatever h is, it is a function of y.

    Arguments:
        sigma: standard deviation in input units, above 0.
        seed: of the run, 0 or more.
        discrete: draw on the grid of 8-bit images, for images on it.

    Raises:
        ValueError: sigma is not above 0 or beyond single precision, or the seed is negative.

    References:
        V. Voracek, M. Hein (2023), Sound randomized smoothing in floating-point arithmetic.
        J. Jin, O. Ohrimenko, B. Rubinstein (2022), Getting a-round guarantees: floating-point
        attacks on certified robustness.
    """

    sigma: float
    seed: int = 0
    discrete: bool = False

    def __post_init__(self) -> None:
        single = np.finfo(np.float32)
        largest = LARGEST if self.discrete else float(single.max)
        if not float(single.tiny) <= self.sigma <= largest:
            raise ValueError(
                f"sigma must be above 0 and at most {largest:g}, in input units; got {self.sigma}."
            )
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more; got {self.seed}.")

    @property
    def deviation(self) -> float:
        """The sigma that a radius may be computed with: never more than was drawn with.

        Normal numbers are scaled by sigma as single precision has it, which may be the smaller.
        """
        return self.sigma if self.discrete else min(self.sigma, float(np.float32(self.sigma)))

    def onto(self, image: Tensor, drawn: Tensor) -> Tensor:
        """Return the noisy copies of an image, (B, C, H, W), of noise drawn here."""
        moved = drawn.to(image)
        return ((image * LEVELS).round() + moved) / LEVELS if self.discrete else image + moved

    def draw(self, image: int, phase: Phase, start: int, stop: int, shape: Sequence[int]) -> Tensor:
        """Return the samples start..stop-1, (stop - start, *shape), on the CPU.

        Those of `discrete` noise are in steps of the grid.
        """
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
        if self.discrete:
            key = self._key(image, phase, block)
            fine = np.random.Generator(np.random.Philox(key)).standard_normal((BLOCK, *shape))
            fine *= LEVELS * self.sigma
            return np.rint(fine, out=fine).astype(np.float32)
        key = self._key(image, phase)
        # A twister has 2^32 seeds: an odd number times the block leads to no seed twice.
        seed = (int(key.generate_state(1)[0]) + block * GOLDEN) % 2**32
        generator = torch.Generator("cpu").manual_seed(seed)
        # Whatever the defaults of the process are, which would draw other numbers.
        single = torch.randn(BLOCK, *shape, generator=generator, dtype=torch.float32, device="cpu")
        drawn: np.ndarray = single.numpy()
        drawn *= np.float32(self.sigma)
        return drawn

    def generator(self, image: int, phase: Phase, what: str) -> np.random.Generator:
        """Return a generator for other random choices about an image, such as whom to audit."""
        key = self._key(image, phase, *what.encode())
        return np.random.Generator(np.random.Philox(key))

    def _key(self, image: int, phase: Phase, *more: int) -> np.random.SeedSequence:
        return np.random.SeedSequence([self.seed, whole("index", image), int(phase), *more])


def on_grid(images: Tensor) -> Tensor:
    """Return images in [0, 1] rounded to the grid of 8-bit images."""
    return (images * LEVELS).round() / LEVELS
