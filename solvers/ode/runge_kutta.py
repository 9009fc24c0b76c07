"""Explicit Runge-Kutta methods, with a step, an error and a verdict per sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..gradient.function import spread
from ..norms import divisor, expand, finite, norm, tiny
from ..problem import InitialValue
from ..solver import S, Solver, State, verdict
from ..status import Status
from .clock import precision
from .tableau import DOPRI5, Tableau

# Hairer, Norsett & Wanner I, II.4
SAFETY = 0.9
SHRINK, GROW = 0.2, 10.0

LEAST = 16 * torch.finfo(torch.float64).eps  # step, relative to t
ROUNDING = 64  # units of it by which a slope may differ when other samples are elsewhere
SLIVER = 1e-6  # of a step: so little is taken along by the step before it

Slope = Callable[[float, Tensor], Tensor]


@dataclass(frozen=True)
class PathState(State):
    """The state z at `time`.

    Arguments:
        slope: f there, (B, ...), where the method carries it on.
        h: each sample's next step in t, (B,), signed; 0 where it would be below rounding.
    """

    slope: Tensor
    h: Tensor
    time: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class RungeKutta(Solver[InitialValue, PathState]):
    """Integrate dz/dt = f(t, z) from t0 to t1 with an explicit Runge-Kutta method.

    With an embedded pair every sample has its own steps: their local error, a root mean square
    over the sample, stays within |error| <= atol + rtol |z|, and neither its answer nor its
    evaluations depend on its batch mates. Other tableaus take equal steps.

    Time is kept in double precision. The field receives it in the dtype of z: 0-d where all
    samples are at the same time, (B, 1, ..., 1) where each has its own. Recording keeps the steps
    that are taken and changes none. Under `Unroll` the steps are constants.

    A sample ends STEP_TOO_SMALL where the error asks for a step below the rounding of t, and
    NONFINITE where z or f is not a number; its batch mates go on. `residual` is the part of
    [t0, t1] that is left.

    Arguments:
        tableau: the method, such as DOPRI5, TSIT5, BOSH3, DOPRI8, RK4, HEUN, MIDPOINT, EULER.
        rtol: local error of an embedded pair, relative to z.
        atol: the absolute part of that error.
        step_size: step in t of the other methods, at most.
        max_steps: steps at most, rejected ones included.

    References:
        E. Hairer, S. P. Norsett, G. Wanner (1993), Solving ordinary differential equations I, II.4.
    """

    answers: ClassVar[type[InitialValue]] = InitialValue

    rtol: float = field(default=1e-3, kw_only=True)
    atol: float = field(default=1e-3, kw_only=True)
    max_steps: int = field(default=10_000, kw_only=True)
    tableau: Tableau = DOPRI5
    step_size: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.tableau, Tableau):
            raise TypeError(f"tableau must be a Tableau such as DOPRI5; got {self.tableau!r}.")
        if not self.step_size > 0:
            raise ValueError(f"step_size must be above 0; got {self.step_size}.")

    def init(self, problem: InitialValue, z0: Tensor) -> PathState:
        dtype = precision(z0.device)
        time = torch.full((z0.shape[0],), problem.t0, dtype=dtype, device=z0.device)
        slope, h = z0, self._equal_steps(problem, time)
        if self.tableau.error:
            slope = problem(time[0].to(z0.dtype), z0)
            check_rows(problem, time[0].to(z0.dtype), z0, slope)
            h = self._first_step(problem, z0, slope).to(time)
        first = self._state(problem, z0, slope, time, h, finite(slope))
        return stuck(self, first, h) if self.tableau.error else first

    def step(self, problem: InitialValue, state: PathState) -> PathState:
        t = state.time
        rest = (problem.t1 - t).abs() <= (1 + SLIVER) * state.h.abs()
        end = torch.where(rest, problem.t1, t + state.h)
        z, slope, ratio = self._attempt(problem, state, end)
        if not self.tableau.error:  # every step is taken
            return self._state(problem, z, z, end, state.h, ratio == 0)
        accepted = ratio <= 1
        least, order = LEAST * max(abs(problem.t0), abs(problem.t1)), self.tableau.order
        # A step that was good enough is not shortened: nearly all after it are as well.
        eased = torch.where(accepted, ratio.clamp(max=SAFETY**order), ratio)
        h = next_step(end - t, eased, order, least)
        moves = h != 0
        plain = bool((accepted & moves).all())  # as nearly always: a GPU is waited for once
        taken = len(accepted) if plain else int(accepted.sum())
        if taken == 0:
            z, slope = state.z, state.slope
        elif taken < len(accepted):
            if torch.is_grad_enabled() and bool(torch.isinf(ratio).any()):
                # A slope that is no number makes the gradient NaN though its step is rejected.
                z, slope, _ = self._attempt(problem, state, torch.where(accepted, end, t))
            take = expand(accepted, z)
            z, slope = torch.where(take, z, state.z), torch.where(take, slope, state.slope)
        sound = moves | torch.isfinite(ratio)
        new = self._state(problem, z, slope, torch.where(accepted, end, t), h, sound)
        return new if plain else stuck(self, new, h)

    def loosened(self, rtol: float) -> RungeKutta:
        loose = self.tableau.error and self.rtol < rtol
        return replace(self, rtol=rtol) if loose else self

    def tolerance(self, state: State) -> float:
        return 0.0  # the residual is what is left of the way

    def equal_steps(self, problem: InitialValue) -> int:
        """Return how many steps a tableau without an error estimate takes."""
        return max(1, math.ceil(abs(problem.t1 - problem.t0) / self.step_size - SLIVER))

    def _state(
        self, problem: InitialValue, z: Tensor, slope: Tensor, t: Tensor, h: Tensor, sound: Tensor
    ) -> PathState:
        left = ((problem.t1 - t) / (problem.t1 - problem.t0)).to(norm(z[:0]).dtype)
        return PathState(z, torch.where(sound, left, float("inf")), slope, h, time=t)

    def _attempt(
        self, problem: InitialValue, state: PathState, end: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return z at the end of the step, its slope, and its error in units of the tolerance."""
        z, t, embedded = state.z, state.time, bool(self.tableau.error)
        # Equal steps are those of all samples; asking would be a break in a compiled step.
        t, end = together(z, t, end) if embedded else (t[0], end[0])
        h = end - t

        def slope(c: float, z: Tensor) -> Tensor:
            return problem((end if c == 1 else t + c * h).to(z.dtype), z)

        first = state.slope if embedded else slope(0.0, z)
        h = h.to(z.dtype)
        new, slopes = advance(self.tableau, slope, z, first, h)
        if not embedded:
            return new, new, torch.where(finite(new), 0.0, float("inf"))
        # The slope at t1 judges the step, and is part of no answer.
        watched = torch.is_grad_enabled() and not bool((end == problem.t1).all())
        with torch.set_grad_enabled(watched):
            slopes.append(slope(1.0, new))
        with torch.no_grad():
            scale = (
                torch.maximum(z.abs(), new.abs())
                .mul_(self.rtol)
                .add_(max(self.atol, tiny(z.dtype)))
            )
            ratio = size(missed(self.tableau, slopes).div_(scale)) * h.abs().flatten()
            ratio = torch.where(finite(scale) & (ratio >= 0), ratio, float("inf"))
        return new, slopes[-1], ratio

    def _equal_steps(self, problem: InitialValue, time: Tensor) -> Tensor:
        return torch.full_like(time, (problem.t1 - problem.t0) / self.equal_steps(problem))

    def _first_step(self, problem: InitialValue, z0: Tensor, slope: Tensor) -> Tensor:
        """Choose each sample's first step by one more evaluation: Hairer et al., II.4."""
        span = problem.t1 - problem.t0
        with torch.no_grad():
            scale = divisor(self.atol + self.rtol * z0.abs())
            d0, d1 = size(z0 / scale), size(slope / scale)
            near = torch.where((d0 > 1e-5) & (d1 > 1e-5), 0.01 * d0 / d1, 1e-6)
            near = near.nan_to_num().clamp(max=abs(span)).to(precision(z0.device)) * math.copysign(
                1.0, span
            )
            (h,) = together(z0, near)
            ahead = problem((problem.t0 + h).to(z0.dtype), torch.addcmul(z0, h.to(z0.dtype), slope))
            d2 = size((ahead - slope) / scale) / near.abs()
            most = torch.maximum(d1, d2)
            far = torch.where(most > 1e-15, (0.01 / most) ** (1 / self.tableau.order), 1e-6)
            far = far.clamp_min(1e-3 * near.abs())  # about 0 where z0 and atol are: no scale
            return torch.minimum(100 * near.abs(), far.nan_to_num()) * near.sign()


def check_rows(problem: InitialValue, t: Tensor, z: Tensor, slope: Tensor) -> None:
    """Raise ValueError where the slope of a sample depends on its batch mates.

    Samples with steps of their own are at different times, so that such a field would be evaluated
    on states that never were together. Seen by one evaluation, which is not counted, with the
    second half of the samples elsewhere; spared where the problem promises `rowwise`.
    """
    half = len(z) // 2
    if problem.rowwise or half == 0:
        return
    with torch.no_grad():
        elsewhere = z.detach().clone()
        elsewhere[half:] += 1 + elsewhere[half:].abs()
        plain = replace(problem, field=getattr(problem.field, "function", problem.field))
        kept, before = plain(t, elsewhere)[:half], slope.detach()[:half]
        differs = norm(kept - before) > ROUNDING * torch.finfo(z.dtype).eps * norm(before)
    if bool(differs.any()):
        raise ValueError(
            "The field's rows depend on each other (or it draws at random), and an embedded pair "
            "takes steps of its own for each. Say coupled=True if the rows are one system, put "
            "the batch first, or integrate with ODE(), whose steps all samples share."
        )


def advance(
    tableau: Tableau, slope: Slope, z: Tensor, first: Tensor, h: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Return z one step on, and the slopes of the stages.

    Arguments:
        slope: maps a stage's node c and its state to f there.
        z: the start of the step, (B, ...).
        first: the slope at z.
        h: the step, 0-d or (B, 1, ..., 1).
    """
    rows, slopes = (*tableau.a, tableau.b), [first]
    sums = (z,) * len(rows)
    for k, c in enumerate(tableau.c):
        state, *rest = spread(slopes[k], h, [row[k] for row in rows[k:]], sums, fresh=k == 0)
        slopes.append(slope(c, state))
        sums = tuple(rest)
    (end,) = spread(slopes[-1], h, tableau.b[-1:], sums, fresh=not tableau.c)
    return end, slopes


def together(z: Tensor, *times: Tensor) -> tuple[Tensor, ...]:
    """Return (B,) tensors as 0-d ones if all samples have the same, else as (B, 1, ..., 1)."""
    if len(z) == 1 or torch.equal(*torch.aminmax(torch.stack(times), dim=1)):
        return tuple(t[0] for t in times)
    return tuple(expand(t, z) for t in times)


def missed(tableau: Tableau, slopes: list[Tensor]) -> Tensor:
    """Return the error estimate of a step of 1, from its slopes and the slope at its end."""
    total = torch.zeros_like(slopes[0])
    for w, slope in zip(tableau.error, slopes, strict=True):
        if w:
            total.add_(slope, alpha=w)
    return total


def next_step(h: Tensor, ratio: Tensor, order: int, least: float) -> Tensor:
    """Return the step after h, whose error is `ratio` times the tolerance; 0 if below `least`."""
    factor = (SAFETY * divisor(ratio) ** (-1 / order)).clamp(SHRINK, GROW)
    h = h * factor
    return torch.where(h.abs() < least, 0.0, h)


def stuck(solver: Solver[Any, Any], state: S, h: Tensor) -> S:
    """Return the state, STEP_TOO_SMALL for the running samples whose next step h is 0."""
    small = h == 0
    if not bool(small.any()):
        return state
    code = verdict(solver, state)
    if code is None:
        code = torch.zeros_like(small, dtype=torch.int8)
    code = code.to(small.device)
    running = small & (code == Status.RUNNING)
    return replace(state, status=code.masked_fill(running, Status.STEP_TOO_SMALL))


def size(z: Tensor) -> Tensor:
    """Return the root mean square of each sample, (B,)."""
    return norm(z) / math.sqrt(max(1, z[:1].numel()))
