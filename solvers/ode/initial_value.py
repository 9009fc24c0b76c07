"""Initial value problems, integrated by torchdiffeq."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..norms import expand, finite
from ..problem import InitialValue
from ..solution import Trajectory
from ..solver import Solver, State
from ..status import Status
from .clock import Bounded, Clock, Row, Samples, Steps, beside, precision

ADAPTIVE = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""Methods of torchdiffeq that choose their steps by rtol and atol."""

GRID = (
    "rk4", "midpoint", "euler", "heun2", "heun3", "explicit_adams", "implicit_adams", "fixed_adams"
)  # fmt: skip
"""Methods of torchdiffeq that take steps of `step_size`."""

SCIPY = "scipy_solver"
METHODS = (*ADAPTIVE, *GRID, SCIPY)

# torchdiffeq's own order of 12 diverges: explicit_adams on z' = -z reaches 1e3 at t = 2 with steps
# of 0.05, and more with smaller ones.
ADAMS_ORDER = 4

SLIVER = 1e-6  # of a step: what is left of an interval by rounding is no step of its own

LSODA_NUMBERS = 11_000
"""Numbers at most of a batch of states under scipy_solver: LSODA keeps n x n of them, 1 GiB."""


@dataclass(frozen=True)
class FlowState(State):
    """The state z; every sample has its `Status`."""

    status: Tensor = field(kw_only=True)


@dataclass(frozen=True)
class ODE(Solver[InitialValue, FlowState]):
    """Integrate dz/dt = f(t, z) from t0 to t1 with any method of torchdiffeq.

    The steps are chosen for the whole batch, such that every sample keeps the tolerance: the
    error norm is the largest root-mean-square over the samples. A sample on which the integrator
    gives up (STEP_TOO_SMALL, MAX_STEPS) or that becomes NONFINITE does not take its batch mates
    with it, where the problem's condition tells the samples apart.

    A recorded trajectory holds the integrator's own steps, which recording does not change (of
    scipy_solver, whose steps are not seen, 33 interpolated states). Its residual is NaN before t1.

    Arguments:
        method: a name of torchdiffeq's: dopri5, bosh3, rk4, euler, midpoint, implicit_adams, ...
        rtol: local error of adaptive methods: |error| <= atol + rtol |z|.
        atol: see rtol.
        step_size: step in t of the other methods; the last step may be shorter.
        max_steps: steps of an adaptive method at most; evaluations of scipy_solver.

    References:
        R. T. Q. Chen (2018), torchdiffeq.
    """

    answers: ClassVar[type[InitialValue]] = InitialValue

    rtol: float = field(default=1e-3, kw_only=True)
    atol: float = field(default=1e-3, kw_only=True)
    max_steps: int = field(default=10_000, kw_only=True)
    method: str = "dopri5"
    step_size: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise ValueError(f"Unknown method {self.method!r}; valid: {', '.join(METHODS)}.")
        if not self.step_size > 0:
            raise ValueError(f"step_size must be above 0; got {self.step_size}.")

    def loosened(self, rtol: float) -> ODE:
        return self  # torchdiffeq's integrator keeps the tolerances that it was given

    def recorded(self, most: float = math.inf) -> ODE:
        settings = {each.name: getattr(self, each.name) for each in fields(ODE)}
        return _Recorded(**settings, most=most)

    def init(self, problem: InitialValue, z0: Tensor) -> FlowState:
        blank = torch.zeros(z0.shape[0], device=z0.device)
        return FlowState(z0, blank, status=blank.to(torch.int8))

    def step(self, problem: InitialValue, state: FlowState) -> FlowState:
        z, code, _ = self._advance(problem, state.z, Clock)
        return _judged(state, z, code)

    def integrate(
        self,
        f: Callable[..., Any],
        z0: Any,
        times: Sequence[float],
        first_step: float | None = None,
    ) -> Any:
        """Return z at the times, (T, B, ...), by torchdiffeq.

        Arguments:
            f: a field in s = t - t0, such as a `Clock`.
            z0: the state at the first of the times, or a tuple of tensors, as f takes it: z, its
                adjoint, and what is summed over the batch.
            times: in s, increasing or decreasing.
            first_step: of an adaptive method, by default chosen by one more evaluation.

        Raises:
            AssertionError: torchdiffeq or SciPy gave up, see `given_up`.
        """
        from torchdiffeq import odeint

        parts = z0 if isinstance(z0, tuple) else (z0,)
        precise = precision(parts[0].device)
        options: dict[str, Any] = {}
        if self.method == SCIPY:
            _check_size(sum(part.numel() for part in parts))
            f = Bounded(f, self.max_steps)
        elif self.method in ADAPTIVE:
            norm = _worst_part if isinstance(z0, tuple) else _worst_sample
            options = {"norm": norm, "max_num_steps": self.max_steps, "dtype": precise}
            if first_step is not None:
                options["first_step"] = first_step
        else:
            options = {"grid_constructor": self._grid}
            if "adams" in self.method:
                options["max_order"] = ADAMS_ORDER
        found = odeint(
            f,
            z0,
            torch.tensor(times, dtype=precise, device=parts[0].device),
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            options=options,
        )
        if len(found[0] if isinstance(z0, tuple) else found) < len(times):
            raise AssertionError("underflow in dt of SciPy")  # which returns what it has
        return found

    def _grid(self, f: object, z0: object, times: Tensor) -> Tensor:
        """Return the times of steps of `step_size`, counted from the first of `times`."""
        span = float(times[-1] - times[0])
        count = max(1, math.ceil(abs(span) / self.step_size - SLIVER))
        grid = times[0] + math.copysign(self.step_size, span) * torch.arange(
            count + 1, dtype=times.dtype, device=times.device
        )
        grid[-1] = times[-1]
        return grid

    def _advance(
        self, problem: InitialValue, z: Tensor, clocked: Callable[[InitialValue], Clock]
    ) -> tuple[Tensor, Tensor, list[Row]]:
        """Integrate from t0 to t1; where torchdiffeq gives up, find out on which samples."""
        full = torch.zeros(z.shape[0], dtype=torch.int8, device=z.device)
        clock = clocked(problem)
        try:
            found = self.integrate(clock, z, clock.times)
            return found[-1], full + Status.CONVERGED, clock.path(found)
        except AssertionError as error:
            reason = given_up(error)
        if z.shape[0] == 1:
            return z, full + reason, clock.stopped(z)
        rows = torch.arange(z.shape[0], device=z.device)
        halves = [self._advance(problem.rows(index), z[index], clocked) for index in rows.chunk(2)]
        ends, codes, paths = zip(*halves, strict=True)
        return torch.cat(ends), torch.cat(codes), beside(list(paths))


@dataclass(frozen=True)
class _Recorded(ODE):
    """The same integration, watched.

    Arguments:
        most: steps to keep, see `Steps`.
    """

    most: float = math.inf

    def step(self, problem: InitialValue, state: FlowState) -> FlowState:
        problem, counter = problem.counted()

        def watch(part: InitialValue) -> Clock:
            if self.method == SCIPY:
                return Samples(part, counter)
            return Steps(part, counter, self.most)

        z, code, path = self._advance(problem, state.z, watch)
        end = _judged(state, z, code)
        times, states, evals = zip(*path, strict=True)
        residual = torch.full((len(path), len(z)), float("nan"), device=z.device)
        residual[-1] = end.residual
        trajectory = Trajectory(
            torch.stack([*states[:-1], end.z]),
            residual,
            torch.tensor(evals),
            torch.stack(times),
        )
        return replace(end, path=trajectory)


def _judged(state: FlowState, z: Tensor, code: Tensor) -> FlowState:
    """Return the state at z, or where it was for the samples that failed."""
    code = torch.where(finite(z), code, Status.NONFINITE)
    good = code == Status.CONVERGED
    return FlowState(
        torch.where(expand(good, z), z, state.z),
        torch.where(good, 0.0, float("inf")),
        status=code.to(torch.int8),
    )


def given_up(error: AssertionError) -> Status:
    """Return the status that an error of torchdiffeq stands for; raise any other again.

    Where the field is not a number, nor is the error, and the next step becomes 0 exactly.
    """
    message = str(error)
    if message.startswith("max_num_steps"):
        return Status.MAX_STEPS
    if not message.startswith(("underflow in dt", "non-finite")):
        raise error  # the field's own
    nan = message.startswith("non-finite") or message.endswith((" 0.0", "nan"))
    return Status.NONFINITE if nan else Status.STEP_TOO_SMALL


def _check_size(numbers: int) -> None:
    if numbers > LSODA_NUMBERS:
        raise ValueError(
            f"scipy_solver takes a batch as one system, and the Jacobian of its {numbers:,} "
            f"numbers needs {8 * numbers**2 / 2**30:,.1f} GiB: use batches of at most "
            f"{LSODA_NUMBERS:,} numbers (in Adjoint with the parameters), or another method."
        )


def _worst_sample(error: Tensor) -> Tensor:
    """Return the largest root-mean-square over the samples of a state (B, ...)."""
    return error.abs().pow(2).flatten(1).mean(1).max().sqrt()


def _worst_part(error: tuple[Tensor, ...]) -> Tensor:
    """Return the same over z and its adjoint, and of what is summed over the batch beside them."""
    z, adjoint, *sums = error
    means = [each.square().mean().sqrt() for each in sums]
    return torch.stack([_worst_sample(z), _worst_sample(adjoint), *means]).max()
