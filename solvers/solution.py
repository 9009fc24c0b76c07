"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from torch import Tensor

from .caller import warn_deprecated
from .status import Status, summarize

V = TypeVar("V", Tensor, tuple[Tensor, ...])
"""A state: one tensor (B, ...) or a tuple of tensors with the same batch."""


@dataclass(frozen=True)
class Trajectory(Generic[V]):
    """The iterates of a solve, one row a step; a finished sample repeats its last row.

    Arguments:
        z: the states, (T, B, ...).
        residual: the relative residual of each, (T, B).
        evals: evaluations made so far, (T,).
        time: t, or lambda, of each state, (T, B), where the solver has one.
    """

    z: V
    residual: Tensor
    evals: Tensor
    time: Tensor | None = None


@dataclass(frozen=True)
class ErrorBound:
    """Upper bounds of ||z - z*||, z the answer of a solve; inf where nothing is proved.

    They hold in exact arithmetic: for an f with ||f(a) - f(b)|| <= l ||a - b||, l < 1, or for an
    inclusion with the moduli that it claims, see `MonotoneInclusion.bound`.

    Arguments:
        posterior: from z itself, (B,): of a contraction ||f(z) - z|| / (1 - l).
        prior: what was known before, from the settings alone, (B,).
        contraction: l; None of an inclusion.
        norm: which norm of a sample, 2 or inf.
        metric: the diagonal D of the 2-norm sqrt(<D z, z>), as `MonotoneInclusion.metric`; None
            where it is plain.
    """

    posterior: Tensor
    prior: Tensor
    contraction: float | None
    norm: float
    metric: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> ErrorBound:
        """Return the bounds with both tensors changed alike."""
        return replace(self, posterior=change(self.posterior), prior=change(self.prior))

    def rows(self, index: Tensor) -> ErrorBound:
        """Return the bounds of the samples `index` alone."""
        return self.each(lambda part: part.index_select(0, index))


@dataclass(frozen=True)
class Solution(Generic[V]):
    """The answer to an equation, and for each sample how it was reached.

    Arguments:
        value: the answer, (B, ...). A NONFINITE sample holds its start.
        status: why each sample stopped, int8 (B,), a `Status`.
        steps: solver steps that each sample took, int64 (B,).
        evals: evaluations of the map, Jacobian-vector products included, int64 (B,).
        residual: ||f(z) - z|| / ||f(z)|| at `value`, (B,); for an initial value problem 0 where
            the integration reached t1. inf where NONFINITE.
        trajectory: the iterates, where they were asked for.
        checks: evaluations on the full batch that held the answers to their claim once all rows
            had stopped, or bounded their distance to it; not in `evals`.
        raised_rtol: the relative tolerance that was used, where the map computes in so little
            precision that the solver's own cannot be met, as under autocast; None elsewhere.
        work: multiply-adds of these evaluations, all samples together, where the map says them
            (`Structured.multiply_adds`) and the loop counted them; None elsewhere.
        bound: upper bounds of the distance to the exact answer, and the norm, where the solver
            proves any: a delta iteration of a known contraction, a splitting that chose its step
            from the problem's moduli.
        states: where they were asked for, the samples that finished together, int64, and the
            solver's last state of these: what a backward pass may reuse, such as Broyden's factors.
    """

    value: V
    status: Tensor
    steps: Tensor
    evals: Tensor
    residual: Tensor
    trajectory: Trajectory[V] | None = None
    checks: int = 0
    raised_rtol: float | None = None
    work: int | None = None
    bound: ErrorBound | None = None
    states: tuple[tuple[Tensor, Any], ...] = ()

    @property
    def error(self) -> Tensor | None:
        """`bound.posterior`, under its old name, for one version."""
        warn_deprecated("Solution.error is Solution.bound.posterior now.", gone="0.3")
        return None if self.bound is None else self.bound.posterior

    @property
    def converged(self) -> Tensor:
        """Which samples converged, bool (B,)."""
        return self.status == Status.CONVERGED

    def report(self) -> str:
        """Say in one sentence how many samples failed, why, and what to do; "" if none did."""
        failed = int((~self.converged).sum())
        if failed == 0:
            return ""
        worst = float(self.residual.detach().max())
        raised = (
            f" rtol was raised to {self.raised_rtol:.1e}, what the map's precision can meet."
            if self.raised_rtol is not None
            else ""
        )
        return (
            f"{failed} of {self.status.numel()} samples did not converge "
            f"(worst residual {worst:.1e}): {summarize(self.status)}.{raised}"
        )

    def check(self) -> Solution[V]:
        """Return self, or raise `SolveError` with the report if a sample did not converge."""
        if not bool(self.converged.all()):
            raise SolveError(self)
        return self


class SolveError(RuntimeError):
    """Some samples did not converge; `.solution` holds what was computed."""

    def __init__(self, solution: Solution[Any], reason: str = "") -> None:
        super().__init__(" ".join(part for part in (solution.report(), reason) if part))
        self.solution = solution
