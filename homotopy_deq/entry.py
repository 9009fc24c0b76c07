"""What a layer is given, checked, and what it tells: a fault is one line for the user."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from solvers import Equilibrium, Gradient, Solution, SolveError, Solver
from solvers.caller import warn_caller
from solvers.gradient.gradient import misfit
from solvers.problem import check_time
from solvers.solver import named

from .cells.cell import hook

FAULTS = (RuntimeError, TypeError, ValueError)
"""What a cell raises that cannot take what it is given."""


class ConvergenceWarning(UserWarning):
    """Some samples of a layer's output did not converge; the message is `Solution.report()`."""


def tell(solution: Solution[Any], on_failure: str) -> None:
    """Warn of samples that failed, raise SolveError, or "ignore" them."""
    if on_failure != "ignore" and not bool(solution.converged.all()):
        if on_failure == "raise":
            raise SolveError(solution)
        warn_caller(solution.report(), ConvergenceWarning)


def check_rule(gradient: object) -> None:
    """Raise TypeError unless an object is a gradient rule."""
    if isinstance(gradient, type) or not callable(getattr(gradient, "apply", None)):
        raise TypeError(f"gradient must be a rule such as Implicit(); got {named(gradient)}.")


def check_fit(gradient: Gradient[Any], solver: Solver[Any, Any]) -> None:
    """Raise what a rule says against a solver: one that was kept at a swap need not fit it."""
    if (fault := misfit(gradient, solver)) is not None:
        raise fault


def check_choice(name: str, value: object, valid: tuple[str, ...]) -> None:
    """Raise ValueError unless a value is one of the valid ones."""
    if value not in valid:
        raise ValueError(f"{name} must be one of {', '.join(valid)}; got {value!r}.")


def check_horizon(t1: float | Tensor, t0: float = 0.0) -> None:
    """Raise TypeError or ValueError unless a flow can run from t0 to t1, which may be learned."""
    check_time("t0", t0)
    if isinstance(t1, Tensor) and (t1.dim() or not t1.is_floating_point()):
        raise ValueError(
            "a t1 that is learned must be one floating-point number, nn.Parameter(torch.tensor"
            f"(1.0)); got {t1.dtype} of shape {tuple(t1.shape)}. All samples share it."
        )
    end = float(t1.detach()) if isinstance(t1, Tensor) else t1
    check_time("t1", end)
    if not end > t0:
        advice = (
            "Keep one that is learned there: clamp it after each step of its optimizer."
            if isinstance(t1, Tensor)
            else "To go back in time, solve an InitialValue with t1 < t0."
        )
        least = f"{t0:g}" if t0 == 0 else f"t0 = {t0:g}"
        raise ValueError(f"t1 must be above {least}; got {end}. {advice}")


def check_still(cell: nn.Module) -> None:
    """Raise TypeError where a cell changes in time, as nothing rests in its flow."""
    if hook(cell, "velocity") is not None:
        raise TypeError(
            f"{type(cell).__name__} has a velocity(t, z, ...), which changes in time and has no "
            "equilibrium: use FlowLayer(cell, rest_point=False)."
        )


def condition_of(cell: nn.Module, x: Any) -> tuple[Tensor, ...]:
    """Return the tensors that a cell receives beside z: its own, or x."""
    make = hook(cell, "condition")
    if make is None:
        if not isinstance(x, Tensor):
            raise _not_one(x)
        return (x,)
    made = _asked(cell, "condition", make, x)
    if not isinstance(made, tuple | list) or not all(isinstance(t, Tensor) for t in made):
        raise TypeError(
            f"condition(x) of {type(cell).__name__} must return a tuple of tensors; "
            f"got {_kind(made)}. Return (tensor,) for one."
        )
    return tuple(made)


def _asked(cell: nn.Module, word: str, make: Callable[[Any], Any], x: Any) -> Any:
    """Return what a hook makes of x, or say of which x it failed."""
    try:
        return make(x)
    except FAULTS as fault:
        if type(fault) not in (RuntimeError, TypeError):
            raise  # memory, or what the cell says itself
        what = f"{_kind(x)}{f' of shape {tuple(x.shape)}' if isinstance(x, Tensor) else ''}"
        raise type(fault)(
            f"{type(cell).__name__}.{word}(x) failed for x, {what}: {str(fault).splitlines()[0]}"
        ) from fault


def start_of(cell: nn.Module, x: Any) -> Any:
    """Return the start of a solve: the cell's, a tensor or a tuple, or zero of x's shape."""
    make = hook(cell, "initial")
    if make is None:
        return _zero(x)
    z0 = _asked(cell, "initial", make, x)
    if type(z0) is tuple and z0 and all(isinstance(part, Tensor) for part in z0):
        return tuple(map(_single, z0))
    if not isinstance(z0, Tensor):
        raise TypeError(
            f"initial(x) of {type(cell).__name__} must return a tensor, (B, ...), or a tuple of "
            f"them, neither nested nor named; got {_kind(z0)}."
        )
    return _single(z0)


def explain(
    cell: nn.Module,
    x: Any,
    equation: Callable[[], Equilibrium],
    z0: Tensor | Solution[Tensor],
    given: bool,
    error: Exception,
) -> None:
    """Raise ValueError if a solve failed because its cell cannot be evaluated at its start.

    Arguments:
        cell: the cell.
        x: what the layer was given.
        equation: returns what was solved.
        z0: the start.
        given: whether the user passed it.
        error: what the solve raised.
    """
    if type(error) not in FAULTS or not isinstance(z0, Tensor) or not z0.is_floating_point():
        return  # memory, a status or a transform; or a start that has been refused
    if isinstance(x, Tensor) and x.dim() < 2 and x.is_floating_point():
        raise ValueError(
            f"x has shape {tuple(x.shape)}, and its batch is to be first: use x[None] for one "
            f"sample. {error}"
        ) from error
    if hook(cell, "velocity") is not None:
        return  # it is evaluated at a time, too
    try:
        problem = equation()
    except FAULTS:
        return  # the cell has said what is wrong
    try:
        with torch.no_grad():
            problem(z0)
    except FAULTS as fault:
        own = hook(cell, "initial") is not None
        start = "z0" if given else "initial(x)" if own else "zero of x's shape"
        others = {p.dtype for p in cell.parameters() if p.is_floating_point()}
        advice = (
            "A cell is a module whose forward is called as cell(z, x)."
            if isinstance(fault, TypeError)
            else f"Its weights are in {others.pop()} and the start in {z0.dtype}: convert one."
            if others and z0.dtype not in others
            else "Is this the shape of the state?"
            if given or own
            else "If the state has another shape than x, give the cell initial(x), which returns "
            "a start of that shape."
        )
        raise ValueError(
            f"{type(cell).__name__} cannot be evaluated at the start, {start} "
            f"{tuple(z0.shape)}: {str(fault).splitlines()[0].rstrip('.')}. {advice}"
        ) from error


def _zero(x: Any) -> Tensor:
    """Return the start by default, zero of x's shape."""
    if not isinstance(x, Tensor):
        raise _not_one(x)
    if not x.is_floating_point() or x.layout != torch.strided or x.is_nested:
        raise TypeError(
            f"x must be a dense floating-point tensor; got {_kind(x)}, and the start is zero of "
            "x's kind. Convert x, or give the cell initial(x), which returns another start."
        )
    if x.dim() < 2:
        raise ValueError(
            f"x must have the batch first and at least one more dimension, (B, ...); got shape "
            f"{tuple(x.shape)}. Use x[None] for one sample, x[:, None] for a batch of scalars."
        )
    z0 = _single(torch.zeros_like(x))
    if z0.dtype.itemsize < 4:
        raise ValueError(
            f"x must be in single or double precision; got {x.dtype}. Use x.float(), and "
            "torch.autocast for a cell in half precision."
        )
    return z0


def _not_one(x: object) -> TypeError:
    advice = (
        "For several inputs give the cell condition(x), which returns the tensors that it "
        "receives beside z, and initial(x), the start; or call layer.answer((a, b), z0)."
        if isinstance(x, tuple | list | dict)
        else "Use torch.as_tensor(x)."
    )
    return TypeError(f"x must be one tensor, (B, ...); got {_kind(x)}. {advice}")


def _single(z0: Tensor) -> Tensor:
    """Return a start in single precision under autocast, which leaves x in half precision."""
    if z0.dtype.itemsize < 4 and z0.is_floating_point():
        return z0.float() if torch.is_autocast_enabled(z0.device.type) else z0
    return z0


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        layout = "" if value.layout == torch.strided else f" in {value.layout}"
        layout += ", nested" * value.is_nested
        return f"a tensor of {value.dtype}{layout}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return named(value) if isinstance(value, type) else f"a {type(value).__name__}"
