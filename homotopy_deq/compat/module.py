"""torchdeq's one call, deq(f, z0) -> (z_out, info)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from solvers import Equilibrium, Solution, Status, solve
from solvers.caller import warn_caller

from ..entry import ConvergenceWarning, check_choice, tell
from .options import Options
from .stat import Info, radius, statistics

State = Tensor | Sequence[Tensor]


class DEQ(nn.Module):
    """Solve z = f(z) and return states to take losses of, as torchdeq's modules do.

    In training z_out holds `n_states` states along the path, each with a gradient: a phantom one
    of `grad` steps of damping `tau`, and with `ift` the last the implicit one. In evaluation it
    holds the last alone; where autograd is on that has its gradient, too. The states of a list z0
    are lists. What torchdeq does otherwise is on the page on porting.

    Arguments:
        options: see `get_deq`.
        on_failure: what is done about samples that did not converge within f_max_iter in
            evaluation: "warn", "raise" or "ignore". In training the caller reads `info`.
        coupled: the rows are one system, as the nodes of a graph are, see `Equilibrium`. Where
            this is not said and a solve shows it, it is done again so, with a warning.
    """

    def __init__(self, options: Options, on_failure: str = "warn", coupled: bool = False) -> None:
        super().__init__()
        self.coupled = coupled
        check_choice("on_failure", on_failure, ("warn", "raise", "ignore"))
        self.options = options
        self.on_failure = on_failure

    def forward(
        self,
        func: Callable[..., Any],
        z_init: State,
        solver_kwargs: Mapping[str, Any] | None = None,
        sradius_mode: bool = False,
        backward_writer: None = None,
        *,
        condition: tuple[Tensor, ...] | None = None,
        **others: None,
    ) -> tuple[list[Any], Info]:
        """Return the states and the statistics of the solve.

        Arguments:
            func: f(z), or f(*z) of a list of states, closing over its inputs; with `condition`
                f(z, *condition). Row i may depend on row i alone.
            z_init: the start, (B, ...), or a list of them.
            solver_kwargs: for this call: f_max_iter, tau, and m or threshold.
            sradius_mode: measure the spectral radius of df/dz, in evaluation.
            backward_writer: not offered.
            condition: tensors (B, ...) that f receives beside z; samples that are done are then
                dropped from the batch, which a closure does not allow.
            others: what a script hands on without a value, as `writer=None`.
        """
        if backward_writer is not None:
            raise TypeError(
                "backward_writer is not offered: a backward pass that does not converge warns."
            )
        if unknown := sorted(name for name, value in others.items() if value is not None):
            raise TypeError(f"{', '.join(unknown)}: no argument of a DEQ; leave it out.")
        call = dict(solver_kwargs or {})
        problem, z0, listed = posed(func, z_init, condition, self.coupled)
        options = self.options
        fallback = options.f_max_iter
        if not self.training:
            fallback = options.eval_f_max_iter or int(options.f_max_iter * options.eval_factor)
        limit = int(call.get("f_max_iter", fallback))
        counts, training = options.counts(limit), self.training
        try:
            outputs, found = _walk(problem, options, z0, counts, call, training)
        except _Mixed:
            warn_caller(
                "The rows of f depend on each other, and were solved again as one system: say "
                "get_deq(coupled=True), which spares the first try.",
                ConvergenceWarning,
            )
            problem = replace(problem, coupled=True)
            outputs, found = _walk(problem, options, z0, counts, call, training)
        if not self.training:
            tell(found, self.on_failure)
        info = statistics(problem, found, options)
        if sradius_mode and not self.training:
            info["sradius"] = radius(problem, found)
        return [list(z) if listed else z for z in outputs], info

    def extra_repr(self) -> str:
        """Show what differs from torchdeq's defaults."""
        default = Options()
        named = vars(self.options).items()
        return ", ".join(f"{k}={v!r}" for k, v in named if v != getattr(default, k))


def get_deq(args: Any = None, **options: Any) -> DEQ:
    """Return a module deq(f, z0) -> (z_out, info) with torchdeq's options.

    Arguments:
        args: a namespace or a dict with options, which may hold others.
        options: core ("sliced" or "indexing"), f_solver and b_solver ("fixed_point_iter",
            "simple_fixed_point_iter", "anderson", "broyden", or a solver of this library), f_ and
            b_ max_iter, tol and stop_mode ("abs" or "rel"), eval_factor, eval_f_max_iter, ift,
            hook_ift, grad, tau, sup_gap, sup_loc, n_states, indexing, no_stat; and `DEQ`'s
            on_failure and coupled.

    Raises:
        TypeError: a keyword is none of these.
        ValueError: a value is not valid.

    Example:
        >>> deq = get_deq(f_solver="anderson", f_max_iter=30, ift=True)
        >>> z_out, info = deq(lambda z: torch.tanh(0.5 * z + x), torch.zeros_like(x))
    """
    on_failure, coupled = options.pop("on_failure", "warn"), options.pop("coupled", False)
    return DEQ(Options.of(args, **options), on_failure, coupled)


def deq(
    func: Callable[..., Any],
    z0: State,
    *condition: Tensor,
    training: bool = True,
    **options: Any,
) -> tuple[list[Any], Info]:
    """Solve z = f(z, *condition) once, as `get_deq(**options)(f, z0)` does.

    Arguments:
        func: f(z, *condition).
        z0: the start, (B, ...), or a list of them.
        condition: tensors (B, ...) that f receives beside z.
        training: return all `n_states` states.
        options: as in `get_deq`.

    Returns:
        The states, and a dict: rel_lowest and abs_lowest, the residuals (B,); nstep, the
        evaluations (B,); status, each sample's `Status`; solution, all of it.
    """
    module = get_deq(**options).train(training)
    found: tuple[list[Any], Info] = module(func, z0, condition=condition or None)
    return found


def posed(
    func: Callable[..., Any],
    z_init: State,
    condition: tuple[Tensor, ...] | None,
    coupled: bool = False,
) -> tuple[Equilibrium, Any, bool]:
    """Return the equation, its start, and whether states are lists."""
    if isinstance(z_init, Tensor):
        return Equilibrium(func, condition, coupled=coupled), z_init, False

    def on_tuple(z: tuple[Tensor, ...], *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(func(*z, *inputs))

    map: Any = on_tuple
    return Equilibrium(map, condition, coupled=coupled), tuple(z_init), True


def _walk(
    problem: Equilibrium,
    options: Options,
    z0: Any,
    counts: list[int],
    call: Mapping[str, Any],
    training: bool,
) -> tuple[list[Any], Solution[Any]]:
    """Return the states with their gradients, and the last solution.

    A sliced path goes on from a state as its gradient's steps leave it.
    """
    outputs: list[Any] = []
    if not training:
        found = _solved(problem, options.forward(counts[-1], call), z0)
        return _differentiated(problem, found, -1, options)[-1:], found
    if options.core == "sliced":
        *before, last = (end - begin for begin, end in zip([0, *counts], counts, strict=False))
        for k, length in enumerate(before):
            found = _solved(problem, options.forward(length, call), z0)
            outputs += _differentiated(problem, found, k - len(counts), options)
            z = outputs[-1]
            z0 = z.detach() if isinstance(z, Tensor) else tuple(part.detach() for part in z)
        found = _solved(problem, options.forward(last, call), z0)
        return outputs + _differentiated(problem, found, -1, options), found
    found = _solved(problem, options.forward(counts[-1], call), z0, record=len(counts) > 1)
    path = found.trajectory
    for k, count in enumerate(counts):
        state = found
        if path is not None and count < counts[-1]:
            at = min(count, len(path.residual) - 1)
            z = path.z[at] if isinstance(path.z, Tensor) else tuple(part[at] for part in path.z)
            state = replace(found, value=z, residual=path.residual[at], trajectory=None)
        outputs += _differentiated(problem, state, k - len(counts), options)
    return outputs, found


class _Mixed(Exception):
    """Rows were solved each by itself that are one system, which torchdeq need not be told."""


def _solved(problem: Equilibrium, solver: Any, z0: Any, record: bool = False) -> Solution[Any]:
    with parametrize.cached():  # weights that are computed, once a solve
        found = solve(problem, solver, z0, record=record)
    if bool((found.status == Status.MIXED_ROWS).any()):
        raise _Mixed
    return found


def _differentiated(
    problem: Equilibrium, state: Solution[Any], which: int, options: Options
) -> list[Any]:
    """Return the states that are made of one, with their gradients.

    Arguments:
        problem: the equation.
        state: without a gradient.
        which: its place among the states, from the end: -1 is the last.
        options: the rest.
    """
    if which == -1 and options.exact:
        return [options.implicit.attach(problem, state).value]
    steps = options.grads[which if len(options.grads) > 1 else 0]
    single = isinstance(state.value, Tensor)
    z = (state.value,) if single else tuple(state.value)
    z = tuple(part.detach() for part in z)
    kept = []
    if not torch.is_grad_enabled():
        return [state.value]
    for k in range(1, steps + 1):
        at: Any = z[0] if single else z
        image: Any = problem.map(at, *problem.inputs)
        parts = (image,) if single else image
        z = tuple(a + options.tau * (b - a) for a, b in zip(z, parts, strict=True))
        by_gap = options.sup_gap > 0 and k % options.sup_gap == 0
        by_place = options.sup_gap <= 0 and k in (options.sup_loc or ())
        if by_gap or by_place or (k == steps and options.sup_gap <= 0):
            kept.append(z[0] if single else z)
    return kept
