"""What every gradient rule is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar, cast

import torch
from torch import Tensor

from ..driver import run
from ..packing import pack
from ..problem import Equilibrium, InitialValue, check_start
from ..solution import Solution, V
from ..solver import Solver
from ..transforms import uncompiled
from .rows import on_usable_rows

P = TypeVar("P", Equilibrium, InitialValue)


class Gradient(Protocol[P]):
    """Solve an equation and attach a gradient to the answer.

    The rules are frozen dataclasses with this method. Those that differentiate the path (`Unroll`,
    `Adjoint`) need no other; a `RootGradient` needs no path. Where autograd is off they only
    solve. A rule that is not of every solver says so in `misfit(solver)`, see `misfit`.
    """

    def apply(
        self, problem: P, solver: Solver[P, Any], z0: V | Solution[V], *, record: bool = False
    ) -> Solution[V]:
        """Return the solution, its `value` differentiable in the condition and parameters."""
        ...


def misfit(rule: Gradient[Any], solver: Solver[Any, Any]) -> Exception | None:
    """Return what a rule says against what a solver finds, before anything is solved, or None.

    Asked where a layer is made of the two.
    """
    says: Callable[..., Exception | None] | None = getattr(rule, "misfit", None)
    return says(solver) if callable(says) else None


class RootGradient(ABC):
    """Differentiate an equation at its root, whoever found it: a rule says how in `at`.

    Attributes:
        reuses: whether it needs the solver's last states, as `knowing` is then given them.

    Raises:
        TypeError: the problem is an `InitialValue`, whose answer satisfies no such equation.
    """

    reuses: ClassVar[bool] = False

    @abstractmethod
    def at(self, problem: Equilibrium, z: Tensor) -> Tensor:
        """Return z, (B, ...), without a graph so far, as a function of all that f depends on.

        Arguments:
            problem: of samples that have a gradient.
            z: its root; one tensor, whatever the form of the caller's state.
        """

    def knowing(
        self, problem: Equilibrium, z: Tensor, solution: Solution[Any], rows: Tensor | None
    ) -> Tensor:
        """Do what `at` does, for a rule that makes use of what the solver knew.

        Arguments:
            problem: as in `at`.
            z: likewise.
            solution: of all samples, with its `states`.
            rows: the samples that these are, int64; None for all.
        """
        return self.at(problem, z)

    @uncompiled
    def attach(self, problem: Equilibrium, solution: Solution[V]) -> Solution[V]:
        """Return a solution of the problem with the gradient attached to its `value`.

        Samples that are NONFINITE have no gradient, nor those where f has none. The others are
        differentiated where they are, CONVERGED or not.

        Raises:
            ValueError: the solution has not the batch of the problem's condition.
        """
        self._check(problem)
        if not torch.is_grad_enabled():
            return solution
        packed, z, unpack = pack(problem, solution)
        check_start(packed, z)
        found: Any = replace(
            cast("Any", solution),
            value=z.detach(),
            status=solution.status[: len(z)],  # coupled rows are one, and share their verdict
            residual=solution.residual[: len(z)],
            trajectory=None,
        )

        def knowing(problem: Equilibrium, z: Tensor, rows: Tensor | None) -> Tensor:
            return self.knowing(problem, z, solution, rows)

        found = replace(found, value=on_usable_rows(packed, found, knowing))
        return replace(solution, value=unpack(found).value, states=())

    @uncompiled
    def apply(
        self,
        problem: Equilibrium,
        solver: Solver[Equilibrium, Any],
        z0: V | Solution[V],
        *,
        record: bool = False,
    ) -> Solution[V]:
        """Return the solution of `solve`, with the gradient attached."""
        self._check(problem)
        watched = torch.is_grad_enabled()
        packed, start, unpack = pack(problem, z0)  # once, so that both know how the map behaves
        with torch.no_grad():
            keep = self.reuses and watched
            found = run(packed, solver, start.detach(), record=record, keep_states=keep)
        return unpack(self.attach(packed, found))

    def misfit(self, solver: Solver[Any, Any]) -> Exception | None:
        """Return why this rule has no root to differentiate of what a solver finds, or None."""
        return self._rootless(solver.answers)

    def _check(self, problem: object) -> None:
        if (fault := self._rootless(type(problem))) is not None:
            raise fault

    def _rootless(self, kind: type) -> Exception | None:
        if issubclass(kind, Equilibrium):
            return None
        return TypeError(
            f"{type(self).__name__} differentiates z* = f(z*); the answer of an "
            f"{kind.__name__} satisfies no such equation. Use Unroll() or Adjoint()."
        )
