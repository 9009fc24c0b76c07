"""Initial value problems, integrated by torchdiffeq."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..norms import expand
from ..problem import InitialValue
from ..solver import Solver, State
from ..status import Status

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

Odeint = Callable[..., Any]


@dataclass(frozen=True)
class FlowTimeState(State):
    """The state z at `time`, (B,), and each sample's `Status`, int8 (B,)."""

    code: Tensor


@dataclass(frozen=True)
class ODE(Solver[InitialValue, FlowTimeState]):
    """Integrate dz/dt = f(t, z) from t0 to t1 with any method of torchdiffeq.

    The steps are chosen for the whole batch, such that every sample keeps the tolerance: the
    error norm is the largest root-mean-square over the samples. A sample on which the integrator
    gives up (STEP_TOO_SMALL, MAX_STEPS) or that becomes NONFINITE does not take its batch mates
    with it, where the problem's condition tells the samples apart.

    Arguments:
        method: a name of torchdiffeq's: dopri5, bosh3, rk4, euler, midpoint, implicit_adams, ...
        rtol: local error of adaptive methods: |error| <= atol + rtol |z|.
        atol: see rtol.
        step_size: step in t of the other methods.
        max_steps: steps of an adaptive method at most.
        segments: parts that [t0, t1] is integrated in, one after the other.

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
    segments: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in METHODS:
            raise ValueError(f"Unknown method {self.method!r}; valid: {', '.join(METHODS)}.")
        if not (self.step_size > 0 and self.segments >= 1):
            raise ValueError(
                "step_size must be above 0 and segments at least 1; got "
                f"{self.step_size} and {self.segments}."
            )

    def recorded(self) -> ODE:
        return replace(self, segments=max(self.segments, min(32, self.max_steps)))

    def init(self, problem: InitialValue, z0: Tensor) -> FlowTimeState:
        blank = torch.zeros(z0.shape[0], device=z0.device)
        return FlowTimeState(
            z0,
            z0,
            torch.zeros_like(blank),
            code=blank.to(torch.int8),
            time=torch.full_like(blank, problem.t0),
        )

    def step(self, problem: InitialValue, state: FlowTimeState) -> FlowTimeState:
        assert state.time is not None
        span = (problem.t1 - problem.t0) / self.segments
        done = round((float(state.time[0]) - problem.t0) / span)
        start = problem.t0 + done * span
        end = problem.t1 if done + 1 == self.segments else start + span
        z, code = self._advance(problem, state.z, start, end)
        code = torch.where(torch.isfinite(z.detach().flatten(1)).all(1), code, Status.NONFINITE)
        if done + 1 < self.segments:
            code = torch.where(code == Status.CONVERGED, Status.RUNNING, code)
        good = (code == Status.RUNNING) | (code == Status.CONVERGED)
        return FlowTimeState(
            torch.where(expand(good, z), z, state.z),
            state.fz,
            torch.where(good, 0.0, float("inf")),
            code=code.to(torch.int8),
            time=torch.full_like(state.time, end),
        )

    def status(self, state: FlowTimeState) -> Tensor | None:
        return state.code

    def integrate(
        self, problem: InitialValue, z0: Tensor, t: Tensor, odeint: Odeint, **settings: Any
    ) -> Tensor:
        """Return z at the last of the times t by `odeint` or `odeint_adjoint` of torchdiffeq."""
        options: dict[str, Any] = {}
        if self.method in ADAPTIVE:
            options = {"norm": _worst_sample, "max_num_steps": self.max_steps}
        elif self.method in GRID:
            options = {"step_size": min(self.step_size, float((t[-1] - t[0]).abs()))}
            if "adams" in self.method:
                options["max_order"] = ADAMS_ORDER
        found: Tensor = odeint(
            problem,
            z0,
            t,
            rtol=self.rtol,
            atol=self.atol,
            method=self.method,
            options=options,
            **settings,
        )[-1]
        return found

    def _advance(
        self, problem: InitialValue, z: Tensor, start: float, end: float
    ) -> tuple[Tensor, Tensor]:
        """Integrate from start to end; where torchdiffeq gives up, find out on which samples."""
        from torchdiffeq import odeint

        full = torch.zeros(z.shape[0], dtype=torch.int8, device=z.device)
        try:
            t = torch.tensor([start, end], dtype=z.dtype, device=z.device)
            return self.integrate(problem, z, t, odeint), full + Status.CONVERGED
        except AssertionError as error:
            if not str(error).startswith(("underflow in dt", "max_num_steps", "non-finite")):
                raise  # the field's own
            if z.shape[0] == 1 or problem.condition is None:
                return z, full + _reason(str(error))
        rows = torch.arange(z.shape[0], device=z.device)
        halves = [
            self._advance(problem.rows(index), z[index], start, end) for index in rows.chunk(2)
        ]
        return torch.cat([z for z, _ in halves]), torch.cat([code for _, code in halves])


def _reason(message: str) -> Status:
    """Return the status that an error of torchdiffeq stands for.

    Where the field is not a number, nor is the error, and the next step becomes 0 exactly.
    """
    if message.startswith("max_num_steps"):
        return Status.MAX_STEPS
    nan = message.startswith("non-finite") or message.endswith((" 0.0", "nan"))
    return Status.NONFINITE if nan else Status.STEP_TOO_SMALL


def _worst_sample(error: Tensor) -> Tensor:
    """Return the largest root-mean-square over the samples of a state (B, ...)."""
    return error.abs().pow(2).flatten(1).mean(1).max().sqrt()
