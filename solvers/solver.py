"""What every solver is: settings, a state, one step, and a verdict per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from .norms import divisor, norm, relative
from .problem import Equilibrium, InitialValue
from .solution import ErrorBound, Trajectory
from .status import Status
from .structure import Cached

P = TypeVar("P", Equilibrium, InitialValue)
S = TypeVar("S", bound="State")

_NUMBERS: dict[str, type] = {"int": Integral, "float": Real}
"""What a setting of a solver must be, by its annotation; other settings look after themselves."""


@dataclass(frozen=True)
class State:
    """Where a solve stands. Tensor fields have the batch first, or where their metadata say
    `batch`; the rest is shared.

    Arguments:
        z: the iterate, (B, ...).
        residual: ||f(z) - z|| / ||f(z)||, (B,).
        status: each sample's `Status`, int8 (B,); None where the residual says it, see `verdict`.
        evals: evaluations each sample took so far, int64 (B,), where a solver knows better than
            the loop, which counts a call of the map for every sample in the batch.
        time: t or lambda of each sample, (B,), where the path has one.
        path: the states on the way, where one step is the whole way and they were asked for.
        checks: `Solution.checks` of the solves that the steps were, shared by the batch.
        modulus: m of a monotone inclusion, where the path knows it: it bounds the answer's error.
        bound: upper bounds of the distance to the answer, where the solver proves any.
    """

    z: Tensor
    residual: Tensor
    status: Tensor | None = field(default=None, kw_only=True)
    evals: Tensor | None = field(default=None, kw_only=True)
    time: Tensor | None = field(default=None, kw_only=True)
    path: Trajectory[Tensor] | None = field(default=None, kw_only=True)
    checks: int = field(default=0, kw_only=True)
    modulus: float | None = field(default=None, kw_only=True)
    bound: ErrorBound | None = field(default=None, kw_only=True)

    def told(self) -> Tensor:
        """Return the residual on the host, outside of any graph."""
        return self.residual.detach().cpu()

    def rows(self: S, index: Tensor) -> S:
        """Return the state of the samples `index` alone."""
        chosen: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, Tensor):
                chosen[each.name] = value.index_select(each.metadata.get("batch", 0), index)
            elif isinstance(value, State | Cached | ErrorBound):
                chosen[each.name] = value.rows(index)
        return replace(self, **chosen)


@dataclass(frozen=True)
class Evaluated(State):
    """Where an iteration stands: beside z, the map's value there.

    Arguments:
        z: as in `State`.
        residual: as in `State`.
        fz: f(z), (B, ...).
    """

    fz: Tensor


@dataclass(frozen=True)
class Tracked(State):
    """Where a path through other equations stands: it counts, and says itself how samples fare.

    Arguments:
        z: as in `State`.
        residual: as in `State`.
        status: as in `State`, and not to be left out.
        evals: as in `State`, and not to be left out.
        time: as in `State`, and not to be left out.
    """

    status: Tensor = field(kw_only=True)
    evals: Tensor = field(kw_only=True)
    time: Tensor = field(kw_only=True)


@dataclass(frozen=True, kw_only=True)
class Solver(ABC, Generic[P, S]):
    """A path to the answer of an equation: frozen settings and pure functions of a state.

    A solver implements `init` and `step`; the loop around them is `solve`. Neither may let one
    sample see another, and both must be differentiable where they are used under `Unroll`.

    Attributes:
        answers: the kind of problem; a ladder with a splitting in it answers what that one does.

    Arguments:
        rtol: a sample has converged at ||f(z) - z|| <= rtol ||f(z)|| + atol (2-norm of a sample),
            where that is evidence of a root, see `earned`.
        atol: the absolute part of the tolerance. Give it where a root may be 0: a step that halves
            z halves f(z) - z too, so that rtol alone is met only where both leave the precision.
        max_steps: a sample still running after so many steps ends MAX_STEPS.
    """

    answers: ClassVar[type[Equilibrium] | type[InitialValue]] = Equilibrium

    rtol: float = 1e-4
    atol: float = 0.0
    max_steps: int = 100

    def __post_init__(self) -> None:
        for each in fields(self):
            value, kind = getattr(self, each.name), _NUMBERS.get(str(each.type))
            if kind is not None and not isinstance(value, kind):
                raise TypeError(
                    f"{each.name} must be {'a whole' if kind is Integral else 'a'} number; "
                    f"got {value!r}."
                )
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise ValueError(
                f"rtol and atol must be >= 0 and not both 0; got {self.rtol} and {self.atol}."
            )
        if self.max_steps < 0:
            raise ValueError(f"max_steps must be >= 0; got {self.max_steps}.")

    @abstractmethod
    def init(self, problem: P, z0: Tensor) -> S:
        """Return the state at the start z0, (B, ...)."""

    @abstractmethod
    def step(self, problem: P, state: S) -> S:
        """Return the state one step on."""

    def tolerance(self, state: State) -> float | Tensor:
        """Return the residual at which a sample has converged, a float or (B,)."""
        if self.atol == 0 or not isinstance(state, Evaluated):
            return self.rtol
        return self.rtol + self.atol / divisor(norm(state.fz))

    def loosened(self, rtol: float) -> Solver[P, S]:
        """Return the solver with a relative tolerance of at least `rtol`."""
        return self if self.rtol >= rtol else replace(self, rtol=rtol)

    def recorded(self) -> Solver[P, S]:
        """Return the solver to use when the path is kept: one that takes the same steps."""
        return self

    def suited(self, problem: P, z0: Tensor) -> Solver[P, Any]:
        """Return the solver to use for a problem: one that reaches the same for less, or this."""
        return self

    @property
    def compacts_below(self) -> float:
        """Drop finished samples from the batch once the running ones are this share or less."""
        return 0.75


def named(value: object) -> str:
    """Say in one line what was given where a solver or another object was wanted."""
    if isinstance(value, type):
        return f"the class {value.__name__}, not an object of it; write {value.__name__}()"
    said = repr(value)
    return said if len(said.splitlines()) == 1 else f"an object of {type(value).__name__}"


def verdict(solver: Solver[Any, Any], state: State) -> Tensor | None:
    """Return each sample's `Status`, int8 (B,), or None where all are RUNNING.

    It is what the state says; where that leaves it open, a residual within the solver's tolerance
    is CONVERGED and one that is not finite is NONFINITE. It lies on the host where one tolerance is
    that of all samples.
    """
    if state.status is not None:
        return state.status
    tolerance, finite = solver.tolerance(state), False
    if isinstance(tolerance, float):
        residual = state.told()
        low, high = torch.aminmax(residual)  # NaN propagates into both
        finite = float(high) < float("inf")
        if finite and float(low) > tolerance:
            return None
    else:
        residual = state.residual.detach()
    code = (residual <= tolerance).to(torch.int8)  # CONVERGED is 1
    return code if finite else code.masked_fill_(~torch.isfinite(residual), Status.NONFINITE)


def earned(solver: Solver[Any, Any], z: Tensor, gap: Tensor, first: Tensor | None = None) -> Tensor:
    """Say where a residual within the tolerance is convergence, bool (B,).

    No tolerance may lie below the rounding of z, and no residual may merely look small beside a z
    that has grown (as that of f(z) = z + 1 does, until 1 is rounded away): with eps of z's dtype

        eps / 2 ||z|| <= rtol ||z|| + atol,    ||f(z) - z|| + eps ||z|| < first.

    Arguments:
        solver: whose tolerance was met.
        z: where, (B, ...).
        gap: ||f(z) - z|| there, (B,).
        first: ||f(z) - z|| where the path began, (B,); None at the caller's own start.
    """
    eps = torch.finfo(z.dtype).eps
    size = norm(z.detach())
    fine = eps / 2 * size <= solver.rtol * size + solver.atol
    return fine if first is None else fine & (gap + eps * size < first)


def residual_norm(state: Evaluated) -> Tensor:
    """Return ||f(z) - z||, (B,), outside of any graph."""
    return state.residual.detach() * divisor(norm(state.fz.detach()))


def judged(solver: Solver[Equilibrium, Any], first: Evaluated) -> Tensor:
    """Return the `Status` of each sample at its own start, int8 (B,)."""
    done = (first.residual <= solver.tolerance(first)) & earned(
        solver, first.z, residual_norm(first)
    )
    return done.to(torch.int8).masked_fill_(~torch.isfinite(first.residual), Status.NONFINITE)


def start(problem: Equilibrium, z0: Tensor) -> Evaluated:
    """Evaluate the map at the start: the state that fixed-point solvers begin with."""
    fz = problem(z0)
    return Evaluated(z0, relative(fz - z0, fz), fz)
