"""Layers whose output is the answer to an equation."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from solvers import (
    ODE,
    Anderson,
    Equilibrium,
    Gradient,
    Implicit,
    InitialValue,
    Solution,
    Solver,
    Unroll,
)
from solvers.driver import check_answers
from solvers.times import Times, check_times, solve_at, stretched
from solvers.transforms import uncompiled

from .entry import ConvergenceWarning as ConvergenceWarning
from .entry import check_fit, check_horizon, check_still
from .equations import flow_of, posed_by, rest_residual
from .layer import HORIZON as HORIZON
from .layer import Layer as Layer
from .layer import OnFailure as OnFailure
from .polish import polished_layer
from .twin import twin


class ImplicitLayer(Layer):
    """Return the equilibrium z* = f(z*; x) of a cell f.

    Arguments:
        cell: a module `cell(z, x)` -> Tensor of z's shape. Row i may depend on row i alone.
        solver: the path to the equilibrium.
        gradient: how the answer is differentiated, whatever the path was.
        on_failure: see `Layer`.
        coupled: see `Layer`.
        t1: where a flow ends that `with_solver` puts in the solver's place.

    Example:
        >>> layer = ImplicitLayer(DenseCell(8, 16), solver=Broyden())
        >>> layer(torch.randn(4, 8)).shape
        torch.Size([4, 16])
    """

    def __init__(
        self,
        cell: nn.Module,
        solver: Solver[Equilibrium, Any] = Anderson(),  # noqa: B008  (frozen)
        gradient: Gradient[Equilibrium] = Implicit(),  # noqa: B008
        *,
        t1: float | Tensor = HORIZON,
        on_failure: OnFailure = "warn",
        coupled: bool = False,
    ) -> None:
        super().__init__(cell, solver, gradient, t1=t1, on_failure=on_failure, coupled=coupled)
        check_horizon(t1)
        check_still(cell)
        check_answers(solver, posed_by(cell), "a FlowLayer for this solver")
        check_fit(gradient, solver)

    def problem(self, condition: tuple[Tensor, ...]) -> Equilibrium:
        """Return the equation z = f(z, *condition)."""
        return self.equation(condition)


class FlowLayer(Layer):
    """Return z(t1) of the flow of a cell f:

        dz/dt = f(z; x) - z  (with a rest point: z(t1) nears the equilibrium z* = f(z*; x)),
        dz/dt = f(z; x)      (without one: neural ODEs, HomoODE as published),
        dz/dt = f(t, z; x)   (of a cell with a `velocity`, which changes in time).

    With `times` it returns z at each of them, (T, B, ...), from one way through all, and the
    solution's `trajectory` holds these states; `value` is the last. All are differentiable.

    Arguments:
        cell: a module `cell(z, x)` -> Tensor of z's shape.
        solver: the integrator.
        gradient: how the answer is differentiated: `Unroll()`, the default, or `Adjoint()`.
        rest_point: which of the first two flows.
        t0: where the flow begins.
        t1: where it ends, above t0, a number or an `nn.Parameter` that is learned; by default 5
            after t0 with a rest point, 1 without, or the last of the times.
        times: in [t0, t1], in order: numbers, or a tensor (T,) that may require a gradient. A call
            may have others: `layer(x, times=...)`.
        interpolate: see `solvers.solve_at`.
        on_failure: see `Layer`.
        coupled: see `Layer`.

    Example:
        >>> layer = FlowLayer(DenseCell(8, 16), RungeKutta(), times=[0.5, 1.0, 5.0])
        >>> layer(torch.randn(4, 8)).shape
        torch.Size([3, 4, 16])
    """

    def __new__(cls, *args: Any, polish: Any = None, **settings: Any) -> FlowLayer:
        """Take the old `polish=`: its answer is a root, and its layer of the other kind."""
        if polish is None:
            return super().__new__(cls)
        return cast("FlowLayer", polished_layer(cls, polish, *args, **settings))

    def __init__(
        self,
        cell: nn.Module,
        solver: Solver[InitialValue, Any] = ODE(),  # noqa: B008  (frozen)
        gradient: Gradient[InitialValue] | None = None,
        *,
        rest_point: bool = True,
        t0: float = 0.0,
        t1: float | Tensor | None = None,
        times: Times | None = None,
        interpolate: bool = False,
        on_failure: OnFailure = "warn",
        coupled: bool = False,
    ) -> None:
        if t1 is None:
            t1 = t0 + (HORIZON if rest_point else 1.0) if times is None else float(times[-1])
        rule = Unroll() if gradient is None else gradient
        super().__init__(cell, solver, rule, t1=t1, on_failure=on_failure, coupled=coupled)
        check_horizon(t1, t0)
        check_answers(solver, InitialValue, "an ImplicitLayer for this solver")
        check_fit(rule, solver)
        if rest_point:
            check_still(cell)
        self.rest_point, self.t0, self.interpolate = rest_point, t0, interpolate
        self.times = times
        self._check_times()

    def field(self, t: Tensor, z: Any, *condition: Tensor) -> Any:
        """Evaluate dz/dt. To evaluate it more than once, take the field of `flow`."""
        return self.flow(self.equation(condition)).field(t, z, *condition)

    def flow(self, equation: Equilibrium, t0: float | None = None) -> InitialValue:
        """Return the flow of an equation's map f to t1, from the layer's t0 or another."""
        begin, end = self.t0 if t0 is None else t0, self.t1
        if not isinstance(end, Tensor):
            return flow_of(equation, begin, end, self.rest_point)
        check_horizon(end, begin)  # it may have been learned away
        flow = flow_of(equation, begin, float(end.detach()), self.rest_point)
        return stretched(flow, begin, end)

    def problem(self, condition: tuple[Tensor, ...]) -> InitialValue:
        """Return the flow from t0 to t1."""
        return self.flow(self.equation(condition))

    @uncompiled
    def answer(
        self,
        condition: tuple[Tensor, ...],
        z0: Tensor | Solution[Tensor],
        *,
        record: bool = False,
    ) -> Solution[Tensor]:
        """Return the solution at t1, or at the last of the times with the states at all."""
        if self.times is None:
            return super().answer(condition, z0, record=record)
        if record:
            raise ValueError("record keeps the states at all steps, and times at these: give one.")
        problem, rule = self.problem(condition), self.gradient
        times, between = self.times, self.interpolate
        return solve_at(problem, self.solver, z0, times, rule, interpolate=between)

    @uncompiled
    def solve(
        self,
        x: Tensor,
        z0: Tensor | Solution[Tensor] | None = None,
        *,
        record: bool = False,
        times: Times | None = None,
    ) -> Solution[Tensor]:
        """Return the solution as `Layer.solve` does, with the states at the times of this call."""
        return Layer.solve(self._at(times), x, z0, record=record)

    @uncompiled
    def forward(self, x: Tensor, times: Times | None = None) -> Tensor:
        """Return z(t1) for the condition x, or z at the times, (T, B, ...)."""
        layer = self._at(times)
        solution = layer.solve(x)
        last = layer.accept(solution)
        return last if layer.times is None else cast("Any", solution.trajectory).z

    def _at(self, times: Times | None) -> FlowLayer:
        """Return this layer, with other times where they are given."""
        if times is None:
            return self
        other = twin(self)
        other._parameters = {k: v for k, v in self._parameters.items() if k != "times"}
        other.times = times
        other._check_times()
        return other

    def _check_times(self) -> None:
        if self.times is None:
            return
        if isinstance(self.t1, Tensor) and self.t1.requires_grad:
            raise ValueError(
                "a t1 that is learned ends the flow, and times end it as well: give a number for "
                "t1, and times that require a gradient, such as torch.stack([t, end])."
            )
        check_times(self.times, self.t0, float(self.t1))

    def extra_repr(self) -> str:
        """Show the settings in `print(layer)`, t0 and times where they are not those by default."""
        told = [super().extra_repr()]
        told += [f"t0={self.t0}"] if self.t0 else []
        told += [] if self.times is None else [f"times={self.times}"]
        return ", ".join(told)

    def residual(self, z: Any, condition: tuple[Tensor, ...]) -> Tensor:
        """Return how far a state is from rest, ||f(z) - z|| / ||f(z)||, (B,); NaN if none rests.

        `Solution.residual` of a flow is the part of the way to t1 that is left. This is what that
        of a root is, at one evaluation.

        Arguments:
            z: the state, such as z(t1): a tensor (B, ...) or a tuple of them.
            condition: what `condition(x)` returns.
        """
        left = rest_residual(self.flow(self.equation(condition)), z)
        return left if self.rest_point else torch.full_like(left, float("nan"))
