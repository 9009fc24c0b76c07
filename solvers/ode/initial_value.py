"""Initial value problems, integrated by torchdiffeq."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..norms import expand
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

METHODS = (*ADAPTIVE, *GRID, "scipy_solver")

# torchdiffeq's own order of 12 diverges: explicit_adams on z' = -z reaches 1e3 at t = 2 with steps
# of 0.05, and more with smaller ones.
ADAMS_ORDER = 4

SLIVER = 1e-6  # of a step: what is left of an interval by rounding is no step of its own

LSODA_NUMBERS = 11_000
"""Numbers at most of a batch of states under scipy_solver: LSODA keeps n x n of them, 1 GiB."""

Odeint = Callable[..., Any]


@dataclass(frozen=True)
class FlowState(State):
    """The state z and each sample's `Status`, int8 (B,)."""

    code: Tensor


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
    evaluates: ClassVar[bool] = False

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

    def recorded(self) -> ODE:
        return _Recorded(**{each.name: getattr(self, each.name) for each in fields(self)})

    def init(self, problem: InitialValue, z0: Tensor) -> FlowState:
        blank = torch.zeros(z0.shape[0], device=z0.device)
        return FlowState(z0, z0, blank, code=blank.to(torch.int8))

    def step(self, problem: InitialValue, state: FlowState) -> FlowState:
        z, code, _ = self._advance(problem, state.z, Clock)
        return _judged(state, z, code)

    def status(self, state: FlowState) -> Tensor | None:
        return state.code

    def integrate(
        self, clock: Clock, z0: Tensor, times: Sequence[float], odeint: Odeint, **settings: Any
    ) -> Tensor:
        """Return z at the times, (T, B, ...), by `odeint` or `odeint_adjoint` of torchdiffeq.

        Arguments:
            clock: the field in s = t - t0.
            z0: the state at the first of the times.
            times: in s, increasing or decreasing.
        """
        precise = precision(z0.device)
        f: Callable[..., Tensor] = clock
        options: dict[str, Any] = {}
        if self.method == "scipy_solver" and z0.numel() > LSODA_NUMBERS:
            raise ValueError(
                f"scipy_solver takes a batch as one system, and the Jacobian of its {z0.numel():,} "
                f"numbers needs {8 * z0.numel() ** 2 / 2**30:,.1f} GiB: use batches of at most "
                f"{LSODA_NUMBERS:,} numbers, or another method."
            )
        if self.method in ADAPTIVE:
            options = {
                "norm": _worst_sample, "max_num_steps": self.max_steps, "dtype": precise
            }  # fmt: skip
        elif self.method in GRID:
            options = {"grid_constructor": self._grid}
            if "adams" in self.method:
                options["max_order"] = ADAMS_ORDER
        else:
            f = Bounded(clock, self.max_steps)
        found: Tensor = odeint(
            f,
            z0,
            torch.tensor(times, dtype=precise, device=z0.device),
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            options=options,
            **settings,
        )
        return found

    def _grid(self, f: object, z0: Tensor, times: Tensor) -> Tensor:
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
        from torchdiffeq import odeint

        full = torch.zeros(z.shape[0], dtype=torch.int8, device=z.device)
        clock = clocked(problem)
        try:
            found = self.integrate(clock, z, clock.times, odeint)
            reason = None if len(found) == len(clock.times) else Status.STEP_TOO_SMALL  # SciPy's
        except AssertionError as error:
            reason = given_up(error)
        if reason is None:
            return found[-1], full + Status.CONVERGED, clock.path(found)
        if z.shape[0] == 1:
            return z, full + reason, clock.stopped(z)
        rows = torch.arange(z.shape[0], device=z.device)
        halves = [self._advance(problem.rows(index), z[index], clocked) for index in rows.chunk(2)]
        ends, codes, paths = zip(*halves, strict=True)
        return torch.cat(ends), torch.cat(codes), beside(list(paths))


@dataclass(frozen=True)
class _Recorded(ODE):
    """The same integration, watched."""

    def step(self, problem: InitialValue, state: FlowState) -> FlowState:
        problem, counter = problem.counted()
        watch = Samples if self.method == "scipy_solver" else Steps
        z, code, path = self._advance(problem, state.z, lambda part: watch(part, counter))
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
    code = torch.where(torch.isfinite(z.detach().flatten(1)).all(1), code, Status.NONFINITE)
    good = code == Status.CONVERGED
    return FlowState(
        torch.where(expand(good, z), z, state.z),
        state.fz,
        torch.where(good, 0.0, float("inf")),
        code=code.to(torch.int8),
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


def _worst_sample(error: Tensor) -> Tensor:
    """Return the largest root-mean-square over the samples of a state (B, ...)."""
    return error.abs().pow(2).flatten(1).mean(1).max().sqrt()
