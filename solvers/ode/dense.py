"""States between the steps of a recorded path."""

from __future__ import annotations

import torch
from torch import Tensor

from ..norms import expand
from ..problem import InitialValue
from ..solution import Trajectory
from .runge_kutta import together


def between(
    problem: InitialValue, path: Trajectory[Tensor], times: Tensor, *, hold: bool = False
) -> Tensor:
    """Return z at times on the way, (T, B, ...), by the cubic through the two steps about each.

    With theta = (t - a) / h in the step from a to a + h = b,

        z(t) = (1 - theta) z_a + theta z_b + theta (theta - 1) ((1 - 2 theta) (z_b - z_a)
               + (theta - 1) h f(a, z_a) + theta h f(b, z_b)),

    of error h^4 / 384 |d^4 z / dt^4|: two evaluations a time, and no step is altered. Recorded by
    `Unroll`, it is differentiable in all that the path is.

    Arguments:
        problem: whose path it is.
        path: recorded with times by an integrator.
        times: between t0 and t1, (T,).
        hold: a sample whose path ends early holds its last state from then on.

    Raises:
        ValueError: the path has no times, or a time lies beyond its ends.

    References:
        E. Hairer, S. P. Norsett, G. Wanner (1993), Solving ordinary differential equations I, II.6.
    """
    if path.time is None:
        raise ValueError("The path has no times: record one of ODE() or RungeKutta().")
    sign = 1 if problem.t1 > problem.t0 else -1
    knots, wanted = sign * path.time.mT.contiguous(), sign * times
    ends = knots[:, [0, -1]].to(wanted)  # an end in single precision is an end
    if not hold and not bool(((wanted >= ends[:, :1]) & (wanted <= ends[:, 1:])).all()):
        raise ValueError(
            f"times must lie on the path, in [{problem.t0}, {problem.t1}], of each sample; "
            f"the shortest ends at {sign * float(ends[:, 1].min())}."
        )
    rows, found = torch.arange(len(knots), device=knots.device), []
    for t in wanted.to(knots):
        held = t.clamp(knots[:, 0], knots[:, -1]).detach()
        at = held + (t - t.detach())  # no kink at the ends
        after = torch.searchsorted(knots, at[:, None]).squeeze(1).clamp_min(1)
        after = after.clamp_max(knots.shape[1] - 1)  # of a path of one state
        (a, z_a), (b, z_b) = ((path.time[n, rows], path.z[n, rows]) for n in (after - 1, after))
        theta = expand((sign * at - a) / torch.where(a == b, 1, b - a), z_a).to(z_a)
        first, last = (
            expand(b - a, z_a).to(z_a) * problem(together(z, s)[0].to(z), z)
            for s, z in ((a, z_a), (b, z_b))
        )
        bent = (1 - 2 * theta) * (z_b - z_a) + (theta - 1) * first + theta * last
        found.append((1 - theta) * z_a + theta * z_b + theta * (theta - 1) * bent)
    return torch.stack(found)
