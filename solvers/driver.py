"""The one loop: every solver's steps are taken, counted and judged here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .packing import pack
from .precision import fitted
from .problem import Equilibrium, InitialValue, Problem, check_start
from .results import Results, bucket
from .solution import Solution, SolveError, V
from .solver import Evaluated, P, Solver, named, residual_norm
from .structure import Counter, compiled
from .transforms import uncompiled
from .verify import verified

Take: TypeAlias = Callable[[Solver[Any, Any], Any, Any], Any]
"""Return the state one step of a solver on, for a problem and a state."""


@uncompiled
def solve(
    problem: P,
    solver: Solver[P, Any],
    z0: V | Solution[V],
    *,
    record: bool = False,
    keep_states: bool = False,
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
        keep_states: keep the solver's last state of each sample in `Solution.states`.

    Raises:
        TypeError: the solver does not answer this kind of problem.
        ValueError: z0 or the condition has the wrong shape or dtype.
    """
    with torch.no_grad():
        return run(problem, solver, z0, record=record, keep_states=keep_states)


def run(
    problem: P,
    solver: Solver[P, Any],
    z0: V | Solution[V],
    *,
    record: bool = False,
    keep_states: bool = False,
    first: Tensor | None = None,
    take: Take | None = None,
) -> Solution[V]:
    """Do what `solve` does, in the caller's grad mode (`Unroll` differentiates through it).

    Arguments:
        first: ||f(z) - z||, (B,), where the path that led to z0 began: z0 is then not the
            caller's own start, and has converged only where its residual is below, see `earned`.
        take: what takes the solver's steps, by default the solver.
    """
    check_kind(problem, solver)
    if torch.is_inference_mode_enabled():  # where Jacobians would be 0, without a word
        with torch.inference_mode(False), torch.no_grad():
            return run(
                problem, solver, z0,
                record=record, keep_states=keep_states, first=first, take=take,
            )  # fmt: skip
    problem, z, unpack = pack(problem, z0)
    check_start(problem, z)
    if z.shape[0] == 0:
        return unpack(Results(z, None).solution())
    with torch.autocast(z.device.type, enabled=False):  # the map keeps its own precision
        path = (solver.recorded() if record else solver).suited(problem, z)
        return unpack(_follow(problem, path, z, record, keep_states, first, take or _step))


def answered_by(solver: object) -> type[Equilibrium] | type[InitialValue]:
    """Return the kind of problem that a solver answers, or raise TypeError if it is none."""
    if not isinstance(solver, Solver):
        raise TypeError(
            f"solver must be a Solver such as Anderson() or ODE(); got {named(solver)}."
        )
    return solver.answers


def check_kind(problem: object, solver: object) -> None:
    """Raise TypeError unless the solver answers this kind of problem."""
    if not isinstance(problem, Problem):
        raise TypeError(
            f"problem must be an Equilibrium(f, (x,)) or an InitialValue(f, t0, t1, (x,)); got "
            f"{named(problem)}. Write solve(problem, solver, z0)."
        )
    check_answers(solver, type(problem))


def check_answers(solver: object, kind: type, layer: str = "") -> None:
    """Raise TypeError unless an object is a solver that answers a kind of problem.

    Arguments:
        solver: what was given.
        kind: the class of the problem.
        layer: what poses the other of the two equations in the place of the caller.
    """
    answered = answered_by(solver)
    if issubclass(kind, answered):
        return
    wanted = answered.__name__
    fitting = "ODE or RungeKutta" if issubclass(kind, InitialValue) else "Anderson, Flow, ..."
    if issubclass(answered, kind):
        layer = "a cell that offers the structure, such as MonotoneCell"
    raise TypeError(
        f"{type(solver).__name__} answers {'an' if wanted[0] in 'EI' else 'a'} {wanted}; got "
        f"{kind.__name__}. Use {fitting} for it{', or ' * bool(layer)}{layer}."
    )


def _step(solver: Solver[Any, Any], problem: Any, state: Any) -> Any:
    return solver.step(problem, state)


def _follow(
    whole: Any,
    solver: Solver[Any, Any],
    z0: Tensor,
    record: bool,
    keep_states: bool,
    first: Tensor | None,
    take: Take,
    spent: Counter | None = None,
) -> Solution[Tensor]:
    """Take the steps, and hold the answers to their claim.

    Whether convergence is `earned` is asked of all samples together at the end: it nearly always
    is, and where it is not the steps are taken anew and it is asked at each; `spent` then is
    what the first time took.
    """
    problem, counter = whole.counted()
    if spent is not None:
        counter.count, counter.work = spent.count, spent.work
    # Under autograd a finished sample must not run on where it can leave.
    share = 1.0 if torch.is_grad_enabled() else solver.compacts_below
    results = Results(z0, first, strict=spent is not None, keep_states=keep_states)
    static = not torch.is_grad_enabled() and compiled(whole.function)
    state = solver.init(problem, z0)
    asked, equation = solver, isinstance(whole, Equilibrium)
    solver = fitted(asked, whole, z0.dtype)
    step = 0
    while True:
        finished = results.retire(solver, state, step, counter.count)
        if step == 0 and first is None and isinstance(state, Evaluated):
            results.first = residual_norm(state)
        if record:
            results.keep(state, counter.count)
        if finished:
            running = int(results.running.sum())
            if running == 0:
                break
            left = bucket(running) if static else running
            if not record and left <= share * len(results.running):
                index = results.compact(state.z, left)
                problem, state = problem.rows(index), state.rows(index)
        try:
            state = take(solver, problem, state)
        except (ValueError, RuntimeError) as error:
            results.explain(error)
            raise
        step += 1
    if spent is None and isinstance(state, Evaluated) and results.doubted(solver, first is None):
        return _follow(whole, asked, z0, record, keep_states, first, take, counter)
    found = results.solution(state)
    if state.evals is None:
        found = replace(found, work=counter.work)
    if results.poisoned:
        raise SolveError(
            found,
            "A sample became non-finite on the way: its steps would make the "
            "gradient of every shared parameter NaN. Use Implicit() or Phantom().",
        )
    if not equation:
        return found if solver is asked else replace(found, raised_rtol=solver.rtol)
    if state.modulus is not None:
        found = replace(found, bound=whole.bound(found.value.detach(), state.modulus))
        found = replace(found, checks=found.checks + 2)
    solver = fitted(asked, whole, z0.dtype)  # again, as a ladder begins without an evaluation
    if solver is not asked:
        found = replace(found, raised_rtol=solver.rtol)
    if whole.rowwise or not results.suspect:
        return found
    return verified(whole, solver, found)
