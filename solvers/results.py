"""The books of a solve: which samples have finished, when, and with what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .norms import expand, norm, told
from .solution import ErrorBound, Solution, SolveError, Trajectory
from .solver import Evaluated, Solver, State, earned, residual_norm, verdict
from .status import Status

RUNNING, CONVERGED, NONFINITE = map(int, (Status.RUNNING, Status.CONVERGED, Status.NONFINITE))
"""Numbers, as NumPy takes longer over an enum's member than over a batch."""

SMALLEST = 8
"""Rows that the smallest batch of a compiled map keeps: fewer cost as much."""


def bucket(rows: int) -> int:
    """Return the batch to which some rows are filled up: a power of two.

    A compiled map may be compiled again for each size it is given, up to a limit beyond which it
    is not compiled at all.
    """
    return max(1 << (rows - 1).bit_length(), SMALLEST)


def sent(numbers: Any, device: torch.device) -> Tensor:
    """Return an array as a tensor on a device, which is not waited for.

    CUDA has taken the numbers when the call returns; Metal reads them later, and may find others.
    """
    return torch.from_numpy(numbers).to(device, non_blocking=device.type != "mps")


class Results:
    """What is known of the samples that have finished, and which still run.

    A finished sample is written once and never again, so the garbage that it may turn into while
    its batch mates run on is not seen. The books are kept on the host: they are read every step.

    Arguments:
        z0: the start, (B, ...).
        first: ||f(z) - z||, (B,), below which a residual must fall, see `earned`; None where z0 is
            the caller's own, until a step is taken.
        strict: whether a sample goes on whose convergence is not earned.
        keep_states: whether each sample's last state is kept.
    """

    def __init__(
        self,
        z0: Tensor,
        first: Tensor | None,
        *,
        strict: bool = False,
        keep_states: bool = False,
    ) -> None:
        batch = z0.shape[0]
        self.first = first
        self.strict = strict
        self.value = z0.clone()
        dtype = torch.promote_types(z0.dtype, torch.float32)
        self.residual = torch.full((batch,), float("inf"), dtype=dtype, device=z0.device)
        self.bound: ErrorBound | None = None
        self.time: Tensor | None = None  # that of the start at first, where the path has one
        self.status = np.zeros(batch, np.int8)
        self.steps = np.zeros(batch, np.int64)
        self.evals = np.zeros(batch, np.int64)
        self.running = np.ones(batch, bool)  # of the rows that the solver still sees, which are
        self.index: Any = np.arange(batch)  # these rows of the full batch
        self.poisoned = False  # whether autograd saw a step of any row, finished or not, to NaN
        self.keep_states = keep_states
        self.states: list[tuple[Tensor, State]] = []
        self.trace: list[tuple[Tensor, ...]] = []
        self.counts: list[int] = []

    def retire(self, solver: Solver[Any, Any], state: State, step: int, evals: int) -> bool:
        """Write down the samples that have finished; say whether there were any."""
        if step == 0 and state.time is not None:
            self.time = state.time.clone()
        code, over = verdict(solver, state), step >= solver.max_steps
        if code is None and not over:
            return False
        codes = np.zeros(len(self.running), np.int8) if code is None else code.cpu().numpy()
        self.poisoned |= torch.is_grad_enabled() and bool((codes == NONFINITE).any())
        if self.strict and isinstance(state, Evaluated):
            codes = self._earned(solver, state, codes)
        if over:
            codes = np.where(codes == RUNNING, np.int8(Status.MAX_STEPS), codes)
        rows = np.flatnonzero((codes != RUNNING) & self.running)
        if rows.size == 0:
            return False
        self.running[rows] = False
        full = self.index[rows]
        self.status[full] = codes[rows]
        self.steps[full] = step
        self.evals[full] = evals if state.evals is None else state.evals.cpu().numpy()[rows]
        usable = codes[rows] != NONFINITE
        source = sent(rows[usable], state.z.device)
        target = sent(full[usable], state.z.device)
        self.value = _put(self.value, target, state.z.index_select(0, source))
        self.residual = _put(self.residual, target, state.residual.index_select(0, source))
        if state.time is not None and self.time is not None:
            self.time = _put(self.time, target, state.time.index_select(0, source))
        if state.bound is not None:
            self.bound = self._bounded(state.bound, target, source)
        if self.keep_states:
            samples, some = (sent(k, state.z.device) for k in (full, rows))
            self.states.append((samples, state.rows(some)))
        return True

    def _bounded(self, bound: ErrorBound, target: Tensor, source: Tensor) -> ErrorBound:
        """Return the bounds of the full batch, with those of the rows `source` at `target`."""
        full = self.bound or bound.each(lambda _: torch.full_like(self.residual, float("inf")))
        new = bound.rows(source)
        return replace(
            full,
            posterior=full.posterior.index_copy(0, target, new.posterior.to(full.posterior)),
            prior=full.prior.index_copy(0, target, new.prior.to(full.prior)),
        )

    def _earned(self, solver: Solver[Any, Any], state: Evaluated, codes: Any) -> Any:
        """Return the codes with those that say CONVERGED and have not earned it RUNNING."""
        rows = np.flatnonzero((codes == CONVERGED) & self.running)
        if rows.size == 0:
            return codes
        index = sent(rows, state.z.device)
        z, residual, fz = (x.index_select(0, index) for x in (state.z, state.residual, state.fz))
        first = self.first
        if first is not None:
            first = first.index_select(0, sent(self.index[rows], z.device))
        codes = codes.copy()
        fine = earned(solver, z, residual_norm(Evaluated(z, residual, fz)), first)
        codes[rows] = fine.cpu().numpy()
        return codes

    def doubted(self, solver: Solver[Any, Any], own: bool) -> bool:
        """Say whether a cheap bound leaves it open that a CONVERGED sample has `earned` it.

        ||f(z)|| <= 2 ||z|| where the relative residual is below 1/2. A sample that took no step
        need not have fallen where the start is the caller's `own`.
        """
        done = np.flatnonzero(self.status == CONVERGED)
        if done.size == 0:
            return False
        assert self.first is not None  # since the first evaluation
        eps = torch.finfo(self.value.dtype).eps
        books = told(norm(self.value.detach()), self.residual, self.first)
        size, share, first = (book.numpy()[done] for book in books)
        shown = (share < 0.5) & ((2 * share + eps) * size < first)
        shown |= own & (self.steps[done] == 0)
        return not bool((shown & (eps / 2 * size <= solver.rtol * size + solver.atol)).all())

    @property
    def suspect(self) -> bool:
        """Whether rows stopped at different steps, or one did not converge."""
        return bool((self.steps != self.steps[0]).any() or (self.status > CONVERGED).any())

    def compact(self, like: Tensor, size: int) -> Tensor:
        """Forget finished rows; return the positions of the `size` others in the current batch.

        Those that still run are among them, and finished ones where they are fewer.
        """
        keep = np.sort(np.argsort(~self.running, kind="stable")[:size])
        self.index = self.index[keep]
        self.running = self.running[keep]
        return sent(keep, like.device)

    def explain(self, error: Exception) -> None:
        """Say which rows the map was given, if it raised an error on a part of the batch."""
        rows, batch = len(self.index), len(self.status)
        known = isinstance(error, SolveError | torch.OutOfMemoryError)
        if rows < batch and not known:
            raise RuntimeError(
                f"The map failed on {rows} of the {batch} rows, once the others had finished "
                f"({type(error).__name__}: {error}). It must take any number of rows; say "
                "coupled=True if the rows are one system."
            ) from error

    def keep(self, state: State, evals: int) -> None:
        """Keep z, residual and time for the trajectory, each finished sample where it finished."""
        # A copy: the graph of a recorded path keeps it, and the books are written in place.
        running = sent(self.running.copy(), state.z.device)
        z = torch.where(expand(running, state.z), state.z, self.value)
        residual = torch.where(running, state.residual, self.residual.to(state.residual))
        row: tuple[Tensor, ...] = z, residual
        if state.time is not None and self.time is not None:
            row += (torch.where(running, state.time, self.time),)
        self.trace.append(row)
        if state.evals is not None:  # of each sample, what solves within a step took included
            evals = np.where(self.running, state.evals.cpu().numpy(), self.evals).max()
        self.counts.append(int(evals))

    def solution(self, state: State | None = None) -> Solution[Tensor]:
        """Return what was found; the last state may hold a path, and checks, of its own."""
        path = None if state is None else state.path
        if path is None and self.trace:
            z, residual, *time = (torch.stack(each) for each in zip(*self.trace, strict=True))
            path = Trajectory(z, residual, torch.tensor(self.counts), *time)
        books = self.status, self.steps, self.evals
        status, steps, evals = (sent(book, self.value.device) for book in books)
        checks = 0 if state is None else state.checks
        found = Solution(self.value, status, steps, evals, self.residual, path, checks)
        return replace(found, bound=self.bound, states=tuple(self.states))


def _put(full: Tensor, target: Tensor, rows: Tensor) -> Tensor:
    """Write rows into a tensor, in place unless autograd is watching."""
    if torch.is_grad_enabled():
        return full.index_copy(0, target, rows.to(full.dtype))
    return full.index_copy_(0, target, rows.to(full.dtype))
