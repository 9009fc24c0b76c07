"""A layer that is a stack: bounded layers, and equilibria among them that are solved for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from solvers import Equilibrium, Gradient, InitialValue, Picard, Solution, Solver, Status, Unroll
from solvers.driver import answered_by
from solvers.norms import finite

from ..layers import FlowLayer, ImplicitLayer, OnFailure
from ..lipschitz import EquilibriumNetwork
from ..twin import twin
from .bounded import flat


class Applied(nn.Module):
    """The cell of an answer that needs no start: f(z; x) = body(x) whatever z is.

    Arguments:
        body: maps (B, ...) to (B, *size).
        size: shape of a sample's answer, or how many numbers it has.
    """

    def __init__(self, body: nn.Sequential, size: int | Sequence[int]) -> None:
        super().__init__()
        self.body = body
        self.size = (size,) if isinstance(size, int) else tuple(size)

    def initial(self, x: Tensor) -> Tensor:
        """Return 0 of the answer's shape."""
        return x.new_zeros(len(x), *self.size)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Return body(x)."""
        value: Tensor = self.body(x)
        return value


class Stack(ImplicitLayer):
    """Apply modules in turn; the equilibria among them are solved for, and the rest has no path.

    A sample's status is the first among them that is no success, its residual the largest, and
    its steps and evaluations are their sums. Without an equilibrium no step is taken, and each
    module with weights is an evaluation: of a residual network its blocks.

    Arguments:
        body: maps the condition (B, ...) to (B, *size). A Sequential in it is taken apart,
            so that no equilibrium is solved for unseen.
        size: as in `Applied`.
        on_failure: see `Layer`.

    Raises:
        ValueError: there is an equilibrium within another module.
    """

    one_equation = False

    def __init__(
        self, body: nn.Sequential, size: int | Sequence[int], *, on_failure: OnFailure = "warn"
    ) -> None:
        # Whoever wants the equation z = body(x) solved again gets its answer from this.
        body = nn.Sequential(*flat(body))
        super().__init__(Applied(body, size), Picard(), Unroll(), on_failure=on_failure)
        for part in body:
            inner = [each for each in part.modules() if isinstance(each, ImplicitLayer)]
            if inner and not isinstance(part, EquilibriumNetwork):
                raise ValueError(
                    f"an equilibrium within {type(part).__name__} would fail unseen: place it in "
                    "the stack itself."
                )

    @property
    def body(self) -> nn.Sequential:
        """The modules."""
        return self.cell.body  # type: ignore[return-value]

    @property
    def implicit(self) -> list[EquilibriumNetwork]:
        """The equilibria among them."""
        return [part for part in self.body if isinstance(part, EquilibriumNetwork)]

    def answer(
        self,
        condition: tuple[Tensor, ...],
        z0: Tensor | Solution[Tensor],
        *,
        record: bool = False,
    ) -> Solution[Tensor]:
        """Apply the modules to the condition; no start is needed, and none is looked at.

        Raises:
            ValueError: a path is asked for.
        """
        if record:
            raise ValueError(
                "a stack of layers has no one path to record: record that of one of its equilibria."
            )
        (x,) = condition
        zero = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        status = torch.full_like(zero, Status.CONVERGED, dtype=torch.int8)
        steps, evals, residual = zero, zero, x.new_zeros(len(x), dtype=torch.float32)
        for part in self.body:
            if not isinstance(part, EquilibriumNetwork):
                x = part(x)
                continue
            found = part.layer.solve(x)
            apart = found.residual
            if isinstance(part.layer, FlowLayer):
                apart = part.layer.residual(found.value, part.layer.condition(x))
            x = part.cell.read(found.value)
            status = torch.where(status == Status.CONVERGED, found.status, status)
            steps, evals = steps + found.steps, evals + found.evals
            residual = torch.maximum(residual, apart.detach().to(residual))
        usable = finite(x.detach()) | (status != Status.CONVERGED)
        status = torch.where(usable, status, torch.full_like(status, Status.NONFINITE))
        residual = torch.where(status == Status.NONFINITE, float("inf"), residual)
        if not self.implicit:
            evals = evals + sum(any(True for _ in part.parameters()) for part in self.body)
        return Solution(x, status, steps, evals, residual)

    def solve(
        self, x: Tensor, z0: Tensor | Solution[Tensor] | None = None, *, record: bool = False
    ) -> Solution[Tensor]:
        """Return `answer` for the condition x."""
        return self.answer(self.condition(x), x, record=record)

    def with_solver(
        self,
        solver: Solver[Any, Any],
        gradient: Gradient[Any] | None = None,
        *,
        t1: float | None = None,
        polish: Solver[Equilibrium, Any] | None = None,
    ) -> Stack:
        """Return a stack with these weights, shared, and another path to each of its equilibria.

        Raises:
            TypeError: there are none, and the solver follows a flow.
        """
        if not self.implicit and issubclass(answered_by(solver), InitialValue):
            raise TypeError(
                f"explicit layers have no flow that {type(solver).__name__} could follow: any "
                "solver of equilibria gives their answer."
            )
        other = twin(self)
        for part in other.implicit:
            part.layer = part.layer.with_solver(solver, gradient, t1=t1, polish=polish)
        return other
