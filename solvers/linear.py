"""Linear solvers as objects, and the sizes at which one is better than another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .caller import warn_deprecated
from .jacobian import LinearMap
from .norms import TINY, divisor, norm
from .solver import named

SMALL = 16  # unknowns up to which a single system is factored: GMRES needs as many products
PATH = 64  # up to which a path's are, from its start: half the time, in a batch
EIGEN = 64  # up to which eigenvalues are those of a whole Jacobian: cheaper than Arnoldi's
BRANCH = 256  # up to which a Jacobian is formed at every point to look for branch points
HARD = 1024  # up to which a path's are once a step has failed: (n + 1)^2 numbers a sample
INVERSE = 2048  # largest I - J to be inverted once and for all: 16 MiB in single precision


class Operator(Protocol):
    """A linear map of each sample: its products, (B, ...), and its matrix, (B, n, n)."""

    def __call__(self, v: Tensor, /) -> Tensor: ...

    def matrix(self) -> Tensor: ...


@dataclass(frozen=True)
class LinearSolver(ABC):
    """A way to solve A d = b for each sample of a batch."""

    @abstractmethod
    def solve(self, operator: Operator, rhs: Tensor, *, rtol: float | Tensor) -> Tensor:
        """Return d, of rhs's shape; not a solution where A is singular.

        Arguments:
            operator: A.
            rhs: b, (B, ...).
            rtol: ||b - A d|| <= rtol ||b|| is enough; a float or (B,).
        """

    @abstractmethod
    def forms(self, n: int, limit: int | None = None) -> bool:
        """Say whether matrices of n unknowns are formed and factored.

        Arguments:
            n: how many there are.
            limit: above how many it is not worth it, for a solver that chooses by size.
        """

    def thorough(self, n: int) -> LinearSolver:
        """Return the solver for systems of n unknowns that are worth what they cost."""
        return self


@dataclass(frozen=True)
class GMRES(LinearSolver):
    """Minimise ||b - A d|| over a Krylov space: a product a dimension, no matrix.

    Arguments:
        krylov: dimension of the space at most.

    References:
        Y. Saad, M. Schultz (1986), GMRES.
    """

    krylov: int = 40

    def __post_init__(self) -> None:
        if self.krylov < 1:
            raise ValueError(f"krylov must be at least 1; got {self.krylov}.")

    def solve(self, operator: Operator, rhs: Tensor, *, rtol: float | Tensor) -> Tensor:
        return gmres(operator, rhs, rtol=rtol, max_steps=self.krylov)[0]

    def forms(self, n: int, limit: int | None = None) -> bool:
        return False


@dataclass(frozen=True)
class Dense(LinearSolver):
    """Form the matrix, which costs n products, and factor it: n^2 numbers a sample."""

    def solve(self, operator: Operator, rhs: Tensor, *, rtol: float | Tensor) -> Tensor:
        return backward(*factor(operator.matrix()), rhs.flatten(1)).view_as(rhs)

    def forms(self, n: int, limit: int | None = None) -> bool:
        return True


@dataclass(frozen=True)
class BySize(LinearSolver):
    """Factor small systems, and solve large ones in Krylov spaces.

    One system is factored up to 16 unknowns, those of a path up to 64, and those of a path's hard
    samples up to `dense`.

    Arguments:
        krylov: dimension of the Krylov spaces at most.
        dense: unknowns up to which a matrix may be formed at all.
    """

    krylov: int = 100
    dense: int = HARD

    def __post_init__(self) -> None:
        if self.krylov < 1 or self.dense < 0:
            raise ValueError(
                "krylov must be at least 1 and dense at least 0; "
                f"got {self.krylov} and {self.dense}."
            )

    def solve(self, operator: Operator, rhs: Tensor, *, rtol: float | Tensor) -> Tensor:
        solver = Dense() if self.forms(rhs[0].numel(), SMALL) else GMRES(self.krylov)
        return solver.solve(operator, rhs, rtol=rtol)

    def forms(self, n: int, limit: int | None = None) -> bool:
        return n <= (self.dense if limit is None else min(limit, self.dense))

    def thorough(self, n: int) -> LinearSolver:
        return GMRES(max(self.krylov, n) if n <= self.dense else self.krylov)


def renamed(linear: LinearSolver, old: Mapping[str, int | None]) -> LinearSolver:
    """Return the linear solver with settings that were the method's own, for one version.

    Raises:
        TypeError: it is no linear solver.
    """
    if not isinstance(linear, LinearSolver):
        raise TypeError(f"linear must be a linear solver such as GMRES(); got {named(linear)}.")
    given: dict[str, Any] = {name: value for name, value in old.items() if value is not None}
    if not given:
        return linear
    new = replace(linear, **given)
    names = ", ".join(f"{name}=" for name in given)
    warn_deprecated(f"{names} is the linear solver's: write linear={new}.", gone="0.3")
    return new


def factor(a: Tensor) -> tuple[Tensor, Tensor]:
    """Factor each matrix, (B, n, n); a singular one leaves a 0 on the diagonal."""
    lu, pivots, _ = torch.linalg.lu_factor_ex(a)
    return lu, pivots


def backward(lu: Tensor, pivots: Tensor, b: Tensor) -> Tensor:
    """Return the solution of each factored system, b (B, n); immense where singular."""
    d: Tensor = torch.linalg.lu_solve(lu, pivots, b.unsqueeze(2)).squeeze(2)
    finite = torch.isfinite(d).all(1, keepdim=True)
    return torch.where(finite, d, b / TINY)


def gmres(
    operator: LinearMap,
    rhs: Tensor,
    *,
    rtol: float | Tensor,
    max_steps: int,
) -> tuple[Tensor, Tensor]:
    """Solve A d = rhs for each sample by GMRES from d = 0, without restarts.

    Minimises ||rhs - A d|| over the Krylov space. Each sample stops at its own tolerance; the
    residual norm costs one inner product a step: with w the left null vector of the Hessenberg
    matrix, w_0 = 1, it is ||rhs|| / ||w||.

    Arguments:
        operator: v -> A v on (B, ...); row i may depend on row i alone.
        rhs: (B, ...).
        rtol: stop at ||rhs - A d|| <= rtol ||rhs||; a float or (B,).
        max_steps: dimension of the Krylov space at most; as many products.

    Returns:
        d, (B, ...), and the relative residual reached, (B,).

    References:
        Y. Saad, M. Schultz (1986), GMRES.
    """
    batch, n = rhs.shape[0], rhs[0].numel()
    max_steps = min(max_steps, n)
    beta = norm(rhs)
    v = rhs.flatten(1) / divisor(beta)[:, None]
    basis = [v]
    columns: list[Tensor] = []  # column k of the Hessenberg matrix, (B, k + 2)
    null = rhs.new_ones(batch, 1)
    open_ = beta > 0  # samples whose space still grows
    relative = open_.to(beta.dtype)
    for _ in range(max_steps):
        stacked = torch.stack(basis, dim=1)  # (B, k + 1, n)
        image = operator(basis[-1].view_as(rhs)).flatten(1)
        size = norm(image)
        h = torch.zeros_like(null)
        for _ in range(2):  # twice is enough (Giraud, Langou, Rozloznik 2005)
            overlap = torch.bmm(image.unsqueeze(1), stacked.mT)
            image = image - torch.bmm(overlap, stacked).squeeze(1)
            h = h + overlap.squeeze(1)
        left = norm(image)
        breakdown = left <= 10 * torch.finfo(rhs.dtype).eps * size
        grows = open_ & ~breakdown & torch.isfinite(left)
        reach = -(null * h).sum(1)
        # On breakdown the system is solved exactly, unless A maps the space into a smaller one.
        exact = breakdown & (reach.abs() > 10 * torch.finfo(rhs.dtype).eps * size * norm(null))
        entry = reach / torch.where(grows, left, 1)
        null = torch.cat((null, torch.where(grows, entry, 0).unsqueeze(1)), dim=1)
        relative = torch.where(open_, torch.where(exact, 0, 1 / norm(null)), relative)
        # A sample that has stopped keeps the rest of its system trivial: y_k = 0.
        column = torch.cat((h, torch.where(grows, left, 0).unsqueeze(1)), dim=1)
        unit = torch.zeros_like(column)
        unit[:, -1] = 1  # a row of its own: the rows before are the system's
        columns.append(torch.where(open_[:, None], column, unit))
        v = torch.where(grows[:, None], image / torch.where(grows, left, 1)[:, None], 0)
        open_ = grows & (relative > rtol)
        if not bool(open_.any()):
            break
        basis.append(torch.where(open_[:, None], v, 0))
    steps = len(columns)
    if steps == 0:
        return torch.zeros_like(rhs), relative
    hessenberg = rhs.new_zeros(batch, steps + 1, steps)
    for k, column in enumerate(columns):
        hessenberg[:, : k + 2, k] = column
    target = torch.zeros_like(hessenberg[:, :, 0])
    target[:, 0] = beta
    y = _least_squares(hessenberg, target)
    stacked = torch.stack(basis[:steps], dim=1)
    d = torch.bmm(y.unsqueeze(1), stacked).view_as(rhs)
    missed = target - torch.bmm(hessenberg, y.unsqueeze(2)).squeeze(2)
    return d, norm(missed) / divisor(beta)


def _least_squares(a: Tensor, b: Tensor) -> Tensor:
    """Return argmin ||a y - b|| per sample, a (B, k + 1, k), with y_k = 0 where r_kk vanishes.

    That happens where A is singular; the direction in which A v = 0 is then left alone.
    """
    q, r = torch.linalg.qr(a)
    diagonal = r.diagonal(dim1=1, dim2=2)
    largest = diagonal.abs().amax(1, keepdim=True)
    null = (diagonal.abs() <= 10 * torch.finfo(a.dtype).eps * largest).unsqueeze(2)
    r = torch.where(null, 0, r.triu(1)) + torch.diag_embed(torch.where(null[..., 0], 1, diagonal))
    rhs = torch.where(null, 0, torch.bmm(b.unsqueeze(1), q).mT)
    solution: Tensor = torch.linalg.solve_triangular(r, rhs, upper=True)
    return solution.squeeze(2)
