"""The Jacobian at an answer, by products with it alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from solvers import Equilibrium
from solvers.jacobian import Linearization, LinearMap
from solvers.norms import TINY, expand, norm

KRYLOV = 60
"""Dimension of the space that eigenvalues are sought in: all of them up to so many entries."""
STEPS = 50
"""Products of the power iteration; its rate is the mean of the second half."""
DOUBLE = 20
"""Products with J and J^T each that the norm takes."""


@dataclass(frozen=True)
class Spectrum:
    """Leading eigenvalues and sizes of the Jacobian J = df/dz of each sample.

    Arguments:
        eigenvalues: of the largest modulus first, complex (B, m): Ritz values of a Krylov space of
            J^T, exact where that is the whole space.
        growth: by which a power of J^T grows in the end, (||(J^T)^50 v|| / ||(J^T)^25 v||)^(1/25),
            (B,): below 1 plain iteration contracts near the answer, and so does the iteration of
            the implicit gradient.
        norm: ||J|| in the 2-norm, from below, (B,); NaN where no product J v can be formed.
        failed: why there is none of all these, and NaN in its place; "" where there is.
    """

    eigenvalues: Tensor
    growth: Tensor
    norm: Tensor
    failed: str = ""

    @property
    def radius(self) -> Tensor:
        """The largest modulus of the eigenvalues, (B,)."""
        return self.eigenvalues.abs().amax(1)

    @property
    def rightmost(self) -> Tensor:
        """The largest real part, (B,): from 1 on no damping leads to the answer."""
        return self.eigenvalues.real.amax(1)

    @property
    def nonnormality(self) -> Tensor:
        """||J|| / radius, (B,): 1 of a normal matrix; so much may errors grow before they fall."""
        return (self.norm / self.radius.to(self.norm).clamp_min(TINY)).clamp_min(1.0)

    def rate(self, damping: float) -> Tensor:
        """Return the factor by which a damped iteration contracts in the end, (B,):

        max |1 - damping + damping lambda| over the eigenvalues.
        """
        return (1 - damping + damping * self.eigenvalues).abs().amax(1)


def spectrum(problem: Equilibrium, z: Tensor, generator: torch.Generator) -> Spectrum:
    """Measure the Jacobian of a map at states.

    Arguments:
        problem: the equation; row i of its map may depend on row i alone.
        z: where, (B, ...).
        generator: of the random vectors, on the CPU.
    """

    def drawn() -> Tensor:
        return torch.randn(z.shape, generator=generator, dtype=z.dtype).to(z.device)

    try:
        at = Linearization(problem, z, None, problem.condition)
        hessenberg = arnoldi(at.pull, drawn(), min(KRYLOV, z[0].numel()), generator)
        grown, size = growth(at.pull, drawn()), _norm(at, drawn())
    except RuntimeError as error:  # as of out=, which autograd refuses
        none = torch.full((len(z),), torch.nan, dtype=torch.float64)
        why = str(error).splitlines()[0]
        return Spectrum(torch.complex(none, none)[:, None], none, none, why)
    return Spectrum(_eigenvalues(hessenberg), grown, size)


def _eigenvalues(matrices: Tensor) -> Tensor:
    """Return those of each matrix, (B, m, m), the largest first; NaN where one is not finite."""
    fine = matrices.isfinite().all(2).all(1).cpu()
    values = torch.full(matrices.shape[:2], torch.nan, dtype=torch.complex128)
    values[fine] = torch.linalg.eigvals(matrices.double().cpu()[fine])
    return values.gather(1, values.abs().argsort(dim=1, descending=True))


def growth(product: LinearMap, v: Tensor, steps: int = STEPS) -> Tensor:
    """Return by which factor products grow in the end, (B,): the geometric mean over half of them.

    A power iteration that follows one eigenvector returns 0 for a rotation, and this its radius.

    Arguments:
        product: v -> A v of each sample.
        v: a random vector, (B, ...).
        steps: products in all.
    """
    total = torch.zeros(len(v), dtype=torch.float64, device=v.device)
    v = v / expand(norm(v), v).clamp_min(TINY)
    for k in range(steps):
        image = product(v)
        size = norm(image)
        total += size.double().clamp_min(TINY).log() if 2 * k >= steps else 0
        v = image / expand(size, v).clamp_min(TINY)
    return (total / (steps - steps // 2)).exp()


def arnoldi(
    product: LinearMap, start: Tensor, dimension: int, generator: torch.Generator
) -> Tensor:
    """Return Q^T A Q for an orthonormal basis Q of a Krylov space of A, (B, m, m).

    Where the space is exhausted a random direction goes on, so that m = n gives a matrix with all
    eigenvalues of A and with its norm.

    Arguments:
        product: v -> A v of each sample.
        start: a random vector, (B, ...).
        dimension: m, at most the entries of a sample.
        generator: of the random directions, on the CPU.

    References:
        W. E. Arnoldi (1951), The principle of minimized iterations.
    """
    eps = torch.finfo(start.dtype).eps
    v = start.flatten(1)
    v = v / norm(v)[:, None].clamp_min(TINY)
    basis = [v]
    hessenberg = start.new_zeros(len(start), dimension, dimension)
    for k in range(dimension):
        stacked = torch.stack(basis, dim=1)
        image = product(basis[-1].view_as(start)).flatten(1)
        size = norm(image)
        image, overlap = _orthogonal(image, stacked)
        hessenberg[:, : k + 1, k] = overlap
        if k + 1 == dimension:
            break
        left = norm(image)
        ended = left <= 10 * eps * size
        if bool(ended.any()):
            other = torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v.device)
            image = torch.where(ended[:, None], _orthogonal(other, stacked)[0], image)
        hessenberg[:, k + 1, k] = torch.where(ended, 0, left)
        basis.append(image / norm(image)[:, None].clamp_min(TINY))
    return hessenberg


def _orthogonal(v: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return what is left of v beside a basis, (B, k, n), and its coordinates there."""
    total = v.new_zeros(basis.shape[:2])
    for _ in range(2):  # twice is enough (Giraud, Langou, Rozloznik 2005)
        overlap = torch.bmm(basis, v.unsqueeze(2)).squeeze(2)
        v = v - torch.bmm(overlap.unsqueeze(1), basis).squeeze(1)
        total = total + overlap
    return v, total


def _norm(at: Linearization, v: Tensor) -> Tensor:
    """Return ||J|| by the power method on J J^T, (B,)."""
    size = torch.full((len(v),), torch.nan, dtype=v.dtype, device=v.device)
    try:
        for _ in range(DOUBLE):
            pulled = at.pull(v / expand(norm(v), v).clamp_min(TINY))
            size = norm(pulled)
            v = at(pulled)
    except RuntimeError as error:
        if "No product J v" not in str(error):
            raise
        return torch.full_like(size, torch.nan)
    return size
