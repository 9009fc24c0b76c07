"""The one loop: every solver's steps are taken, counted and judged here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from .norms import expand, norm
from .packing import pack
from .precision import fitted
from .problem import Counter, Equilibrium, InitialValue, check_start
from .solution import Solution, SolveError, Trajectory, V
from .solver import Evaluated, P, Solver, State, earned, named, residual_norm, verdict
from .status import Status
from .transforms import uncompiled
from .verify import verified


@uncompiled
def solve(
    problem: P,
    solver: Solver[P, Any],
    z0: V | Solution[V],
    *,
    record: bool = False,
) -> Solution[V]:
    """Follow a solver's path from z0 to the answer of an equation.

    A sample stops when the solver says so and its answer does not depend on its batch mates.
    Nothing is raised for a sample that fails: read `Solution.status`, or call `.check()`.
    No gradient is attached; the rules in `solvers.gradient` do that.

    Arguments:
        problem: an `Equilibrium` or an `InitialValue`.
        solver: a solver for that kind of problem.
        z0: the start, (B, ...), a tuple of tensors with the same batch (the map then takes and
            returns such a tuple), or an earlier `Solution` to start from its value.
        record: keep every iterate in `Solution.trajectory` (the batch is then never compacted).

    Raises:
        TypeError: the solver does not answer this kind of problem.
        ValueError: z0 or the condition has the wrong shape or dtype.
    """
    with torch.no_grad():
        return run(problem, solver, z0, record=record)


def run(
    problem: P,
    solver: Solver[P, Any],
    z0: V | Solution[V],
    *,
    record: bool = False,
    first: Tensor | None = None,
) -> Solution[V]:
    """Do what `solve` does, in the caller's grad mode (`Unroll` differentiates through it).

    Arguments:
        first: ||f(z) - z||, (B,), where the path that led to z0 began: z0 is then not the
            caller's own start, and has converged only where its residual is below, see `earned`.
    """
    check_kind(problem, solver)
    if torch.is_inference_mode_enabled():  # where Jacobians would be 0, without a word
        with torch.inference_mode(False), torch.no_grad():
            problem = replace(problem, condition=_thaw(problem.condition))
            return run(problem, solver, _thaw(z0), record=record, first=first)
    problem, z, unpack = pack(problem, z0)
    check_start(problem, z)
    if z.shape[0] == 0:
        return unpack(_Results(z).solution([], []))
    counted, counter = problem.counted()
    with torch.autocast(z.device.type, enabled=False):  # the map keeps its own precision
        books = None if first is None else first.cpu().numpy()
        found = _loop(counted, counter, solver.recorded() if record else solver, z, record, books)
        if isinstance(problem, Equilibrium):
            fits = fitted(solver, problem.map, z.dtype)
            found = verified(problem, cast("Any", fits), found)
            if fits is not solver:
                found = replace(found, raised_rtol=fits.rtol)
    return unpack(found)


def _thaw(value: Any) -> Any:
    """Copy the tensors that were made in inference mode, which no graph may hold."""
    if isinstance(value, Solution):
        return replace(value, value=_thaw(value.value))
    if isinstance(value, tuple):
        return tuple(_thaw(each) for each in value)
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def check_kind(problem: object, solver: object) -> None:
    """Raise TypeError unless the solver answers this kind of problem."""
    check_answers(solver, type(problem))


def check_answers(solver: object, kind: type, layer: str = "") -> None:
    """Raise TypeError unless an object is a solver that answers a kind of problem.

    Arguments:
        solver: what was given.
        kind: the class of the problem.
        layer: what poses the other of the two equations in the place of the caller.
    """
    if not isinstance(solver, Solver):
        raise TypeError(
            f"solver must be a Solver such as Anderson() or ODE(); got {named(solver)}."
        )
    if issubclass(kind, solver.answers):
        return
    wanted = solver.answers.__name__
    fitting = "ODE or RungeKutta" if issubclass(kind, InitialValue) else "Anderson, Flow, ..."
    if issubclass(solver.answers, kind):
        layer = "a cell that offers the structure, such as MonotoneCell"
    raise TypeError(
        f"{type(solver).__name__} answers {'an' if wanted[0] in 'EI' else 'a'} {wanted}; got "
        f"{kind.__name__}. Use {fitting} for it{', or ' * bool(layer)}{layer}."
    )


def _loop(
    problem: Any,
    counter: Counter,
    solver: Solver[Any, Any],
    z0: Tensor,
    record: bool,
    first: Any,
    strict: bool = False,
) -> Solution[Tensor]:
    """Take the steps. Whether convergence is `earned` is asked of all samples together at the end:
    it nearly always is, and where it is not the loop begins anew and asks, `strict`, as it goes.
    """
    whole, begun = problem, first
    watched = torch.is_grad_enabled()  # then a finished sample must not run on where it can leave
    share = 1.0 if watched else solver.compacts_below
    poisoned = False
    results = _Results(z0)
    trace: list[tuple[Tensor, ...]] = []
    evals: list[int] = []
    state = solver.init(problem, z0)
    if isinstance(problem, Equilibrium):
        solver = fitted(solver, problem.map, z0.dtype)
    evaluated = isinstance(state, Evaluated)  # others are at no residual of their own
    step = 0
    while True:
        code = verdict(solver, state)
        if strict and code is not None and evaluated:
            code = results.earned(solver, state, code, first)
        if first is None and evaluated:
            first = residual_norm(state).cpu().numpy()
        if step >= solver.max_steps:
            code = _expired(code, state)
        if watched and code is not None:
            poisoned |= bool((code == Status.NONFINITE).any())
        finished = code is not None and results.retire(state, code, step, counter.count)
        if record:
            evals.append(counter.count)
            trace.append(results.frozen(state))
        if finished:
            running = int(results.running.sum())
            if running == 0:
                break
            if not record and running <= share * len(results.running):
                index = results.compact(state.z)
                problem, state = problem.rows(index), state.rows(index)
        try:
            state = solver.step(problem, state)
        except (ValueError, RuntimeError) as error:
            results.explain(error)
            raise
        step += 1
    if not strict and evaluated and results.doubted(solver, first, handed=begun is not None):
        return _loop(whole, counter, solver, z0, record, begun, strict=True)
    found = results.solution(evals, trace)
    if state.evals is None:
        found = replace(found, work=counter.work)
    if state.path is not None:
        found = replace(found, trajectory=state.path)
    if poisoned:  # by any row that the steps were taken for, finished or not
        raise SolveError(
            found,
            "A sample became non-finite on the way: its steps would make the "
            "gradient of every shared parameter NaN. Use Implicit() or Phantom().",
        )
    return found


def _expired(code: Tensor | None, state: State) -> Tensor:
    if code is None:
        return torch.full_like(state.residual, Status.MAX_STEPS, dtype=torch.int8)
    return torch.where(code == Status.RUNNING, Status.MAX_STEPS, code).to(torch.int8)


class _Results:
    """What is known of the samples that have finished, and which still run.

    A finished sample is written once and never again, so the garbage that it may turn into while
    its batch mates run on is not seen. The books are kept on the host: they are read every step.
    """

    def __init__(self, z0: Tensor) -> None:
        batch = z0.shape[0]
        self.value = z0.clone()
        dtype = torch.promote_types(z0.dtype, torch.float32)
        self.residual = torch.full((batch,), float("inf"), dtype=dtype, device=z0.device)
        self.time = torch.zeros_like(self.residual)
        self.status = np.zeros(batch, np.int8)
        self.steps = np.zeros(batch, np.int64)
        self.evals = np.zeros(batch, np.int64)
        self.running = np.ones(batch, bool)  # of the rows that the solver still sees, which are
        self.index: Any = np.arange(batch)  # these rows of the full batch

    def retire(self, state: State, code: Tensor, step: int, evals: int) -> bool:
        """Write down the samples that `code` says have finished; say whether there were any."""
        codes = code.cpu().numpy()
        rows = np.flatnonzero((codes != Status.RUNNING) & self.running)
        if rows.size == 0:
            return False
        self.running[rows] = False
        full = self.index[rows]
        self.status[full] = codes[rows]
        self.steps[full] = step
        self.evals[full] = evals if state.evals is None else state.evals.cpu().numpy()[rows]
        usable = codes[rows] != Status.NONFINITE
        source = torch.from_numpy(rows[usable]).to(state.z.device)
        target = torch.from_numpy(full[usable]).to(state.z.device)
        self.value = _put(self.value, target, state.z.index_select(0, source))
        self.residual = _put(self.residual, target, state.residual.index_select(0, source))
        if state.time is not None:
            time = self.time.to(state.time.dtype)  # double, where a solver keeps it so
            self.time = _put(time, target, state.time.index_select(0, source))
        return True

    def doubted(self, solver: Solver[Any, Any], first: Any, *, handed: bool) -> bool:
        """Say whether a cheap bound leaves it open that a CONVERGED sample has `earned` it.

        ||f(z)|| <= 2 ||z|| where the relative residual is below 1/2. A sample that took no step
        from the caller's own start need not have fallen; one `handed` on must have.
        """
        done = np.flatnonzero(self.status == Status.CONVERGED)
        if done.size == 0:
            return False
        eps = torch.finfo(self.value.dtype).eps
        size = norm(self.value.detach()).cpu().numpy()[done]
        share = self.residual.detach().cpu().numpy()[done]
        shown = (share < 0.5) & ((2 * share + eps) * size < first[done])
        if not handed:
            shown |= self.steps[done] == 0
        return not bool((shown & (eps / 2 * size <= solver.rtol * size + solver.atol)).all())

    def earned(
        self, solver: Solver[Any, Any], state: Evaluated, code: Tensor, first: Any
    ) -> Tensor:
        """Return the codes with those that say CONVERGED and have not earned it RUNNING."""
        rows = np.flatnonzero((code.cpu().numpy() == Status.CONVERGED) & self.running)
        if rows.size == 0:
            return code
        index = torch.from_numpy(rows).to(state.z.device)
        z, residual = state.z.index_select(0, index), state.residual.index_select(0, index)
        full = self.index[rows]
        at = Evaluated(z, residual, state.fz.index_select(0, index))
        begun = None if first is None else torch.from_numpy(first[full]).to(z.device)
        fine = earned(solver, z, residual_norm(at), begun)
        return code.index_copy(0, index, fine.to(code.dtype))

    def compact(self, like: Tensor) -> Tensor:
        """Forget the finished rows; return the positions of the others in the current batch."""
        keep = np.flatnonzero(self.running)
        self.index = self.index[keep]
        self.running = self.running[keep]
        return torch.from_numpy(keep).to(like.device)

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

    def frozen(self, state: State) -> tuple[Tensor, ...]:
        """Return z, residual and time, with each finished sample where it finished."""
        running = torch.from_numpy(self.running).to(state.z.device)
        z = torch.where(expand(running, state.z), state.z, self.value)
        residual = torch.where(running, state.residual, self.residual.to(state.residual.dtype))
        if state.time is None:
            return z, residual
        return z, residual, torch.where(running, state.time, self.time.to(state.time.dtype))

    def solution(self, evals: list[int], trace: list[tuple[Tensor, ...]]) -> Solution[Tensor]:
        device = self.value.device
        trajectory = None
        if trace:
            z, residual, *time = (torch.stack(each) for each in zip(*trace, strict=True))
            trajectory = Trajectory(z, residual, torch.tensor(evals), *time)
        status, steps, counts = (
            torch.from_numpy(book).to(device) for book in (self.status, self.steps, self.evals)
        )
        return Solution(self.value, status, steps, counts, self.residual, trajectory)


def _put(full: Tensor, target: Tensor, rows: Tensor) -> Tensor:
    """Write rows into a tensor, in place unless autograd is watching."""
    if torch.is_grad_enabled():
        return full.index_copy(0, target, rows.to(full.dtype))
    return full.index_copy_(0, target, rows.to(full.dtype))
