"""Whole Jacobians, formed and factored: for states of few entries, and for hard ones of more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..linear import LinearMap, jvp
from ..norms import TINY
from ..problem import Counter
from ..twice import by_formula

ENTRIES = 2**24  # of the batch of products that is taken at once: 64 MiB in float32


def jacobian(
    function: LinearMap, z: Tensor, counter: object = None, *, weights: bool = False
) -> Tensor:
    """Return the Jacobian of each sample, (B, m, n), for f: (B, n) -> (B, m), exactly.

    f is evaluated once; the rows are m reverse passes over its graph, many at once.

    Arguments:
        function: f; row i of its output may depend on row i of z alone.
        z: where, (B, n).
        counter: the `Counter` of f's evaluations, if any: a row counts as one.
        weights: whether each sample has weights of its own, which passes at once would copy
            for each: then row by row (at 50 entries a fifth of the time).
    """
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        value = by_formula(function)(at)  # many rows at once need rules that kernels lack
    if not value.requires_grad:  # constant, or evaluated under no_grad
        columns = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        return torch.stack([jvp(function, z, e.expand_as(z))[1] for e in columns], dim=2)
    batch, m = value.shape
    if isinstance(counter, Counter):
        counter.count += m
    units = torch.eye(m, dtype=z.dtype, device=z.device)[:, None].expand(m, batch, m)
    width = 1 if weights else max(1, ENTRIES // max(value.numel(), z.numel()))
    starts = range(0, m, width)
    rows = [_pull(value, at, units[k : k + width], keep=k + width < m) for k in starts]
    return torch.cat(rows).transpose(0, 1)


def _pull(value: Tensor, at: Tensor, vectors: Tensor, *, keep: bool) -> Tensor:
    """Return v^T J for each of the vectors, (k, B, m), as (k, B, n)."""
    if len(vectors) > 1:
        try:
            (rows,) = torch.autograd.grad(
                value, at, vectors, is_grads_batched=True, retain_graph=True,
                materialize_grads=True,
            )  # fmt: skip
            return rows
        except (NotImplementedError, RuntimeError) as error:
            told = str(error).lower()
            if "vmap" not in told and "batching rule" not in told:
                raise
    found = []
    for k, vector in enumerate(vectors):
        again = keep or k + 1 < len(vectors)
        (row,) = torch.autograd.grad(value, at, vector, retain_graph=again, materialize_grads=True)
        found.append(row)
    return torch.stack(found)


@dataclass(frozen=True)
class Factors:
    """The factored matrices [A; r^T] of a batch, with A t = 0 for a unit vector t each.

    They solve [A; t^T] x = [b; c] too: x = y + (c - <t, y>) t with any y such that A y = b.

    Arguments:
        lu: (B, n + 1, n + 1).
        pivots: (B, n + 1).
        null: t, (B, n + 1).
    """

    lu: Tensor
    pivots: Tensor
    null: Tensor

    def solve(self, b: Tensor, c: Tensor) -> Tensor:
        """Return x, (B, n + 1), for b, (B, n), and c, (B,); not finite where singular."""
        y = backward(self.lu, self.pivots, torch.cat((b, torch.zeros_like(b[:, :1])), dim=1))
        return y + (c[:, None] - (self.null * y).sum(1, keepdim=True)) * self.null


def factor(a: Tensor) -> tuple[Tensor, Tensor]:
    """Factor each matrix, (B, n, n); a singular one leaves a 0 on the diagonal."""
    lu, pivots, _ = torch.linalg.lu_factor_ex(a)
    return lu, pivots


def backward(lu: Tensor, pivots: Tensor, b: Tensor) -> Tensor:
    """Return the solution of each factored system, b (B, n); immense where singular."""
    d: Tensor = torch.linalg.lu_solve(lu, pivots, b.unsqueeze(2)).squeeze(2)
    finite = torch.isfinite(d).all(1, keepdim=True)
    return torch.where(finite, d, b / TINY)
