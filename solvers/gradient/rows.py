"""Which samples of a solution have a gradient: a bad one is left out, and spoils no other's."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..caller import warn_caller
from ..norms import finite
from ..problem import Equilibrium
from ..solution import Solution
from ..status import Status
from .graph import cut, detached, leaves, tied_to_nothing


class BackwardWarning(UserWarning):
    """The gradient of an implicit answer is not exact for some samples; the message says why."""


def on_usable_rows(
    problem: Equilibrium,
    found: Solution[Tensor],
    attach: Callable[[Equilibrium, Tensor, Tensor | None], Tensor],
) -> Tensor:
    """Return the solution's value, differentiable as `attach` makes it for the usable samples.

    A sample of cotangent 0 still gives 0 * inf to the parameters that all share where its image
    or its condition is not finite. So it is left out, and the gradient is that of the batch
    without it; its value is a constant. `attach` is given the problem and the root of some
    samples, and their numbers, None for all.
    """
    z = found.value
    rows = usable(problem, found)
    if rows is None:
        return attach(problem, z, None)
    if len(rows) == 0:
        return tied_to_nothing(z, problem, z)
    return z.index_copy(0, rows, attach(problem.rows(rows), z.index_select(0, rows), rows))


def usable(problem: Equilibrium, found: Solution[Tensor]) -> Tensor | None:
    """Return the samples that can be differentiated, int64, or None for all of them."""
    gone = (found.status == Status.NONFINITE) | ~torch.isfinite(found.residual.detach())
    doubtful = torch.zeros_like(gone)
    if len(gone) == 0:
        return gone.nonzero().squeeze(1)
    for tensor in problem.inputs:
        doubtful |= ~finite(tensor)
    if not bool((gone | doubtful).any()):
        return None
    if problem.everything is not None and not _sound(problem, found.value):
        warn_caller(
            f"{int(gone.sum())} samples are not finite, and a map with condition=None closes over "
            "its inputs, so that they cannot be left out: gradients of shared parameters will be "
            "NaN. Pass the inputs as condition=(x, ...), tensors with the batch first.",
            BackwardWarning,
        )
    # -inf may be a mask, which does no harm; inf under a tanh has an image, but no derivative.
    sure = (~(gone | doubtful)).nonzero().squeeze(1)
    sound = _sound_rows(problem, found.value, (doubtful & ~gone).nonzero().squeeze(1))
    return torch.cat((sure, sound)).sort().values


def _sound_rows(problem: Equilibrium, z: Tensor, rows: Tensor) -> Tensor:
    """Return those of the rows where f and its derivatives are finite."""
    if len(rows) == 0 or _sound(problem.rows(rows), z.index_select(0, rows)):
        return rows
    if len(rows) == 1:
        return rows[:0]
    return torch.cat([_sound_rows(problem, z, half) for half in rows.chunk(2)])


def _sound(problem: Equilibrium, z: Tensor) -> bool:
    """Say whether f(z) is finite, and a cotangent of 0 gives the gradient 0, not 0 * inf."""
    with torch.enable_grad():
        image = problem.map(z.detach().requires_grad_(), *detached(problem.inputs))
    if not bool(torch.isfinite(image).all()):
        return False
    if image.grad_fn is None:
        return True
    zero, found = torch.zeros_like(image), leaves(image)
    with cut(found):  # no hook is to see these
        gradients = torch.autograd.grad(image, found, zero, retain_graph=True)
    return all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
