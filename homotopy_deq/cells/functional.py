"""Bounds on linear functions of the equilibrium of z = relu(W z + x)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .bounds import UNIT, Bounds, symbol
from .cell import ProvableCell

ROUNDING = 1e-6
"""Share of the plain bound ||c|| ||W|| ||d|| / m that is added to the sharp one.

It covers the double-precision error of S^-1 c, W^T S^-1 c and the directions, which is about
n u cond(S) <= 1e-9 of it for n cond(S) <= 1e7.
"""
WORST = 1e7
BLOCK = 128
"""Terms summed in the state's precision before the sums are added in double precision."""

DIRECTIONS = 16
"""Singular directions of S^-1/2 W in which a gap is measured, rather than bounded by its norm."""


@dataclass(frozen=True)
class Centre:
    """What one evaluation says of C z*: it is near `at`.

    Arguments:
        at: C times the centre of the ball that z* is in, float64 (B, K).
        size: upper bound of ||fz||, (B,).
        residual: upper bound of ||z - fz||, (B,).
        reach: upper bound of ||S^-1/2 W (z - fz)||, (B,).
        slack: upper bound of the rounding in each number of `at`, (B,).
    """

    at: Tensor
    size: Tensor
    residual: Tensor
    reach: Tensor
    slack: Tensor


@dataclass(frozen=True)
class FunctionalBound:
    """What an evaluation fz of relu(W z + x) says of C z*, for the rows c of a matrix C.

    With d = z - fz, S the symmetric part of I - W, and ||c||_S = (c^T S^-1 c)^1/2,

        | c (fz - z*) - c S^-1 W d / 2 | <= ||c||_S (||S^-1/2 W d|| / 2 + eta / sqrt(m)).

    Derivation: with e = W d + (the rounding of fz, at most eta in norm), `error_bound` shows that
    <S y, y> <= <e, y> for y = fz - z*. That is a ball in the norm of S around S^-1 e / 2 with the
    radius ||S^-1/2 e|| / 2, over which a linear function is largest at the centre plus
    ||c||_S times the radius. Unlike ||c|| ||y|| <= ||c|| ||W|| ||d|| / m it pays the small
    eigenvalues of S only in their own directions, and it knows where the centre is.

    With v_i and s_i the largest singular directions and values of S^-1/2 W, and s the next value,

        ||S^-1/2 W d||^2 <= sum_i (s_i^2 - s^2) (v_i d)^2 + s^2 ||d||^2.

    Arguments:
        value: C less the mean of its rows, (K, n): what all rows share cancels in differences, and
            would only round.
        slope: W^T S^-1 C^T / 2, transposed, (K, n): the shift of the centre for a unit of d.
        gram: C S^-1 C^T, (K, K).
        directions: (s_i^2 - s^2)^1/2 v_i, (J, n).
        gain: upper bound of s.
        plain: upper bound of ||W|| / m.
        lost: upper bound of what subtracting the mean changed in C_i - C_j, in the 2-norm.
        bounds: of the cell.
    """

    value: Tensor
    slope: Tensor
    gram: Tensor
    directions: Tensor
    gain: float
    plain: float
    lost: float
    bounds: Bounds

    @classmethod
    def of(cls, cell: ProvableCell, value: Tensor) -> FunctionalBound:
        """Compute the bound of a cell's present weight, in double precision.

        Arguments:
            cell: gives W. Its W must not change as long as the bound is used: see `FixedCell`.
            value: C, (K, n), on the flattened state.

        Raises:
            ValueError: I - W is not proved to be strongly monotone, or too badly conditioned for
                double precision.
        """
        weight = cell.weight().detach().double()
        bounds = cell.bounds(weight)
        given = value.detach().double()
        c = given - given.mean(0)
        lost = 8 * UNIT * float(torch.linalg.vector_norm(given, dim=1).max())
        condition = c.shape[1] * (1 + bounds.norm) / bounds.monotonicity
        if condition > WORST:
            raise ValueError(
                f"I - W has condition number times size {condition:.1e}, above {WORST:.0e}: "
                "rounding in double precision is not covered."
            )
        found = Spectrum.of(cell.shape, weight, c)
        excess = (found.sizes.square() - found.rest**2).clamp_min(0).sqrt()
        return cls(
            value=c,
            slope=found.pulled / 2,
            gram=c @ found.solved.mT,
            directions=excess[:, None] * found.directions,
            gain=found.rest * (1 + ROUNDING),
            plain=bounds.norm / bounds.monotonicity,
            lost=lost,
            bounds=bounds,
        )

    def sizes(self) -> Tensor:
        """Return upper bounds of ||C_i - C_j||_S and of ||C_i|| + ||C_j||, (2, K, K)."""
        diagonal = self.gram.diagonal()
        squared = diagonal[:, None] + diagonal - self.gram - self.gram.mT
        length = torch.linalg.vector_norm(self.value, dim=1)
        scale = (length[:, None] + length) * (1 + ROUNDING)
        slack = ROUNDING * scale**2 / self.bounds.monotonicity
        return torch.stack((squared.clamp_min(0).add(slack).sqrt(), scale))

    def products(self, dtype: torch.dtype) -> tuple[Products, Products]:
        """Return the products that `center` takes, for states of a precision."""
        rows = torch.cat((self.slope, self.directions))
        return Products.of(self.value, dtype), Products.of(rows, dtype)

    def center(self, z: Tensor, fz: Tensor, products: tuple[Products, Products]) -> Centre:
        """Return what the cell's value fz at z, both (B, ...), says of C z*.

        Arguments:
            z: the state, (B, ...).
            fz: the cell's value there as it was computed, (B, ...).
            products: `products(fz.dtype)`.
        """
        first, second = products
        image, away = fz.flatten(1), (z - fz).flatten(1)  # the difference rounds to u of itself
        numbers = torch.finfo(away.dtype)
        outward = 1 + away.shape[1] * numbers.eps
        length, size = (
            torch.linalg.vector_norm(t, dim=1).double() * outward for t in (away, image)
        )
        both = second(away)
        shift, along = both[:, : len(self.slope)], both[:, len(self.slope) :]
        error = second.error * length  # of each number of shift and along
        inside = torch.linalg.vector_norm(along, dim=1) + math.sqrt(along.shape[1]) * error
        reach = (inside.square() + (self.gain * length).square()).sqrt() * (1 + ROUNDING)
        return Centre(first(image) - shift, size, length, reach, first.error * size + error)

    def radius(self, centre: Centre, eta: Tensor, sizes: Tensor) -> Tensor:
        """Return how far (C_i - C_j) z* may be from its value at the centre, (B, K).

        Arguments:
            centre: from `center`.
            eta: `bounds.rounding` of the evaluation, (B,).
            sizes: of the differences, rows of `sizes()`, (2, B, K) or (2, 1, K).
        """
        weighted, scale = sizes
        m = self.bounds.monotonicity
        ball = centre.reach / 2 + eta / m**0.5
        away = centre.size + self.plain * centre.residual + eta / m  # at least ||z*||
        common = 2 * centre.slack + self.lost * away
        rounding = (ROUNDING * self.plain * centre.residual)[:, None] * scale + common[:, None]
        distance: Tensor = ball[:, None] * weighted + rounding
        return distance


@dataclass(frozen=True)
class Products:
    """Products of states with the rows of a matrix, with a bound on their rounding.

    The terms are summed in blocks, and the sums of the blocks added in double precision: the
    rounding grows with the block, not with the state.

    Arguments:
        blocks: the rows, (n / b, b, R).
        error: the rounding of a product is at most this times the 2-norm of the state.
    """

    blocks: Tensor
    error: float

    @classmethod
    def of(cls, rows: Tensor, dtype: torch.dtype) -> Products:
        """Prepare the products of states (B, n) of a dtype with rows (R, n) in double precision."""
        n = rows.shape[1]
        block = max(b for b in range(1, min(n, BLOCK) + 1) if n % b == 0)
        unit = torch.finfo(dtype).eps / 2
        # A rounded entry, block - 1 additions, a product; a few units for what follows in double.
        terms = block + 4
        longest = float(torch.linalg.vector_norm(rows, dim=1).max()) if len(rows) else 0.0
        error = terms * unit / (1 - terms * unit) * longest * (1 + ROUNDING)
        return cls(rows.mT.reshape(n // block, block, -1).to(dtype), error)

    def __call__(self, states: Tensor) -> Tensor:
        """Return states @ rows^T, float64 (B, R)."""
        count, block, _ = self.blocks.shape
        if count == 1:
            return (states @ self.blocks[0]).double()
        parts = torch.bmm(states.view(-1, count, block).transpose(0, 1), self.blocks)
        total: Tensor = parts.sum(0, dtype=torch.float64)
        return total


@dataclass(frozen=True)
class Spectrum:
    """With S the symmetric part of I - W, in double precision:

    Arguments:
        solved: S^-1 c for the rows c of a matrix C, (K, n).
        pulled: W^T S^-1 c, (K, n).
        directions: the largest right singular vectors v_i of S^-1/2 W, (J, n).
        sizes: their singular values s_i, (J,).
        rest: the next singular value.
    """

    solved: Tensor
    pulled: Tensor
    directions: Tensor
    sizes: Tensor
    rest: float

    @classmethod
    def of(cls, shape: tuple[int, ...], weight: Tensor, c: Tensor) -> Spectrum:
        """Compute it for a weight on states of a shape and C, (K, n), in double precision."""
        return _dense(weight, c) if len(shape) == 1 else _circular(weight, c, shape)


def _dense(w: Tensor, c: Tensor) -> Spectrum:
    eye = torch.eye(w.shape[0], dtype=w.dtype, device=w.device)
    factor = torch.linalg.cholesky(eye - (w + w.mT) / 2)
    solved = torch.cholesky_solve(c.mT, factor).mT
    _, sizes, rows = torch.linalg.svd(torch.linalg.solve_triangular(factor, w, upper=False))
    kept = min(DIRECTIONS, len(sizes) - 1)
    return Spectrum(solved, solved @ w, rows[:kept], sizes[:kept], float(sizes[kept]))


def _circular(kernel: Tensor, c: Tensor, shape: tuple[int, ...]) -> Spectrum:
    """Go frequency by frequency: there a circular convolution is a block of C x C."""
    channels, height, width = shape
    blocks = symbol(kernel, height, width)
    eye = torch.eye(channels, dtype=blocks.dtype, device=blocks.device)
    factor = torch.linalg.cholesky(eye - (blocks + blocks.mH) / 2)
    waves = torch.fft.rfft2(c.view(-1, *shape)).permute(2, 3, 1, 0)  # (H, W', C, K)
    solved = torch.cholesky_solve(waves, factor)
    scaled = torch.linalg.solve_triangular(factor, blocks, upper=False)
    _, sizes, rows = torch.linalg.svd(scaled)

    def images(spectra: Tensor) -> Tensor:
        """Return the real images (R, n) with the spectra (R, C, H, W')."""
        real: Tensor = torch.fft.irfft2(spectra, s=(height, width))
        return real.flatten(1)

    found: list[Tensor] = []
    values: list[float] = []
    rest = 0.0
    order = sizes.flatten().argsort(descending=True).tolist()
    for place in order:
        rest = float(sizes.flatten()[place])
        if len(found) >= DIRECTIONS or place == order[-1]:
            break
        row, k = divmod(place, channels)
        a, b = divmod(row, width // 2 + 1)
        spectra = torch.zeros(2, channels, height, width // 2 + 1, dtype=blocks.dtype)
        spectra[0, :, a, b] = rows[a, b, k].conj()
        spectra[1, :, a, b] = 1j * rows[a, b, k].conj()
        # A wave and the wave a quarter turned; one of them where a frequency is its own
        # conjugate, and none where its conjugate has come before.
        for vector in images(spectra):
            whole = float(vector.norm())
            for other in found:
                vector = vector - (other @ vector) * other
            if float(vector.norm()) > 1e-6 * whole and whole > 1e-6 / (height * width):
                found.append(vector / vector.norm())
                values.append(rest)
    back, pulled = (images(w.permute(3, 2, 0, 1)) for w in (solved, blocks.mH @ solved))
    level = torch.tensor(values, dtype=torch.float64, device=kernel.device)
    directions = torch.stack(found) if found else c.new_zeros(0, c.shape[1])
    return Spectrum(back, pulled, directions.to(kernel.device), level, rest)
