"""Layers whose output is the answer to an equation."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn

from solvers import (
    ODE,
    Anderson,
    Equilibrium,
    Gradient,
    Implicit,
    InitialValue,
    Solution,
    SolveError,
    Solver,
    Unroll,
    solve,
)
from solvers.caller import warn_caller
from solvers.driver import check_answers
from solvers.guard import Guard
from solvers.problem import check_time
from solvers.transforms import check_untransformed, uncompiled

from .cells.cell import check_cell
from .entry import check_rule, condition_of, explain, start_of
from .equations import answered_by, equation_of, posed_by
from .finite import finite_rows, put_back, rows_of
from .twin import twin

OnFailure = Literal["warn", "raise", "ignore"]

HORIZON = 5.0
"""How long a flow with a rest point runs: a slowest mode e^-t has then decayed to below 1%."""


class ConvergenceWarning(UserWarning):
    """Some samples of a layer's output did not converge; the message is `Solution.report()`."""


class Layer(nn.Module):
    """A cell, where its solves start, and what is done about samples that fail.

    `layer(x)` returns the answer as a tensor and acts on failures by `on_failure`. `layer.solve`
    returns the `Solution`, which carries every sample's status, and neither warns nor raises.

    Arguments:
        cell: a module `cell(z, x)`; see `homotopy_deq.cells.Cell` for what else it may define.
        t1: where the flow ends, or where one ends that `with_solver` puts in its place.
        on_failure: what `layer(x)` does if a sample did not converge: "warn" (a
            `ConvergenceWarning`), "raise" (a `SolveError`) or "ignore".
        coupled: the rows are one system, as the nodes of a graph are or samples that share
            batch statistics: one norm and one status for all, and none is ever dropped.
    """

    solver: Solver[Any, Any]
    gradient: Gradient[Any]
    rest_point: bool = True
    polish: Solver[Equilibrium, Any] | None = None
    spare: Gradient[Any] | None = None
    """The gradient of the other kind of answer, root or z(t1), for a swap back to it."""

    def __init__(
        self, cell: nn.Module, t1: float, on_failure: OnFailure, coupled: bool = False
    ) -> None:
        super().__init__()
        check_cell(cell)
        if on_failure not in get_args(OnFailure):
            raise ValueError(
                f"on_failure must be one of {', '.join(get_args(OnFailure))}; got {on_failure!r}."
            )
        check_time("t1", t1)
        if not t1 > 0:
            raise ValueError(f"t1 must be above 0; got {t1}.")
        self.cell = cell
        self.t1 = t1
        self.on_failure = on_failure
        self.coupled = coupled

    @abstractmethod
    def answer(
        self,
        condition: tuple[Tensor, ...],
        z0: Tensor | Solution[Tensor],
        *,
        record: bool = False,
    ) -> Solution[Tensor]:
        """Solve the layer's equation for a condition from a start, with the gradient attached."""

    def with_solver(
        self,
        solver: Solver[Any, Any],
        gradient: Gradient[Any] | None = None,
        *,
        t1: float | None = None,
        polish: Solver[Equilibrium, Any] | None = None,
    ) -> Layer:
        """Return a layer with this cell's weights, shared, and another forward pass.

        A solver of initial value problems gives a `FlowLayer`: of an `ImplicitLayer`, the flow
        dz/dt = f(z; x) - z that rests at its equilibrium. Any other solver gives an
        `ImplicitLayer`.

        Arguments:
            solver: the other path.
            gradient: by default this layer's, or that of the layer which this one was made from,
                where it fits the other equation; else the other layer's default.
            t1: where the flow ends; this layer's by default.
            polish: see `FlowLayer`; none by default, whether or not this layer has one.

        Raises:
            TypeError: this flow has no rest point, and the solver is one of equilibria.
        """
        flows = issubclass(answered_by(solver), InitialValue)
        if not flows and not self.rest_point:
            raise TypeError(
                f"{type(solver).__name__} finds equilibria, and dz/dt = f(z; x) (rest_point=False) "
                "nears none: nothing is at rest at z(1), where the root mean square of a field "
                "that ends in a normalisation is about 1. Train with rest_point=True, which "
                "integrates dz/dt = f(z; x) - z, or use an ODE solver."
            )
        if not flows and polish is not None:
            raise TypeError("polish follows a flow; a fixed-point solver has its own tolerance.")
        t1 = self.t1 if t1 is None else t1
        same = self.ends_at_root == (not flows or polish is not None)
        if gradient is None:
            gradient = self.gradient if same else self.spare
        cell = twin(self.cell)
        settings: dict[str, Any] = {
            "t1": t1,
            "on_failure": self.on_failure,
            "coupled": self.coupled,
        }
        other: Layer
        if flows:
            settings |= {"rest_point": self.rest_point, "polish": polish}
            other = FlowLayer(cell, solver, gradient, **settings)
        else:
            other = ImplicitLayer(cell, solver, gradient or Implicit(), **settings)
        other.training = self.training  # train() would reach into the cell, whose mode is its own
        other.spare = self.spare if same else self.gradient
        return other

    @property
    def ends_at_root(self) -> bool:
        """Whether the answer is an equilibrium, so that `Implicit` can differentiate it."""
        return self.polish is not None or not isinstance(self, FlowLayer)

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the cell is iterated with: once per solve, so it may draw a mask."""
        return condition_of(self.cell, x)

    def equation(self, condition: tuple[Tensor, ...]) -> Equilibrium:
        """Return the equation z = f(z, *condition) of one solve: the cell's own, where it has one.

        Its map is what a solve evaluates, with all that the cell computes once per solve in it.
        """
        return equation_of(self.cell, condition, coupled=self.coupled)

    def initial(self, x: Tensor) -> Tensor:
        """Return the start of a solve: the cell's, or zero of x's shape."""
        return start_of(self.cell, x)

    @uncompiled
    def solve(
        self, x: Tensor, z0: Tensor | Solution[Tensor] | None = None, *, record: bool = False
    ) -> Solution[Tensor]:
        """Return the solution for the condition x, its gradient attached to `value`.

        A sample of x that is not finite is not solved: it ends NONFINITE, holds its start (0 where
        none is given), and the others' gradient is that of the batch without it.

        Arguments:
            x: the condition, (B, ...).
            z0: the start, (B, ...), or an earlier `Solution`; the cell's own by default.
            record: keep the iterates in `Solution.trajectory`.
        """
        check_untransformed(x)
        rows = None if self.coupled else finite_rows(x)
        if rows is not None:
            some = self.solve(x.index_select(0, rows), rows_of(z0, rows), record=record)
            return put_back(some, rows, len(x), z0)
        condition = self.condition(x)
        start = self.initial(x) if z0 is None else z0
        try:
            return self.answer(condition, start, record=record)
        except (RuntimeError, ValueError) as error:
            equation = partial(self.equation, condition)
            explain(self.cell, equation, start, z0 is not None, error)
            raise

    @uncompiled
    def forward(self, x: Tensor) -> Tensor:
        """Return the answer for the condition x."""
        return self.accept(self.solve(x))

    def accept(self, solution: Solution[Tensor]) -> Tensor:
        """Return a solution's value; if a sample failed, first do what `on_failure` says."""
        if self.on_failure != "ignore" and not bool(solution.converged.all()):
            if self.on_failure == "raise":
                raise SolveError(solution)
            warn_caller(solution.report(), ConvergenceWarning)
        return solution.value

    def __prepare_scriptable__(self) -> Layer:
        """Refuse `torch.jit.script`, which would look into the solver."""
        raise NotImplementedError(
            "torch.jit.script cannot compile a solve. Script the cell, layer.cell, and solve "
            "around it; for speed use torch.compile(cell)."
        )

    def extra_repr(self) -> str:
        """Show the settings in `print(layer)`."""
        names = ("solver", "gradient", "t1", "rest_point", "polish", "on_failure", "coupled")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


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
        t1: float = HORIZON,
        on_failure: OnFailure = "warn",
        coupled: bool = False,
    ) -> None:
        super().__init__(cell, t1, on_failure, coupled)
        check_answers(solver, posed_by(cell), "a FlowLayer for this solver")
        check_rule(gradient)
        self.solver = solver
        self.gradient = gradient

    @uncompiled
    def answer(
        self,
        condition: tuple[Tensor, ...],
        z0: Tensor | Solution[Tensor],
        *,
        record: bool = False,
    ) -> Solution[Tensor]:
        """Solve z = f(z, *condition) from z0, with the gradient attached."""
        return self.gradient.apply(self.equation(condition), self.solver, z0, record=record)


class FlowLayer(Layer):
    """Return z(t1) of the flow of a cell f:

        dz/dt = f(z; x) - z  (with a rest point: z(t1) nears the equilibrium z* = f(z*; x)),
        dz/dt = f(z; x)      (without one: neural ODEs, HomoODE as published).

    Arguments:
        cell: a module `cell(z, x)` -> Tensor of z's shape.
        solver: the integrator.
        gradient: how the answer is differentiated: `Unroll()` or `Adjoint()`; with `polish` any
            gradient of an `Equilibrium`. By default `Unroll()`, with `polish` `Implicit()`.
        rest_point: which of the two flows.
        t1: where the flow ends; by default 5 with a rest point, 1 without.
        polish: a solver that takes z(t1) to the equilibrium, so that the layer's answer is the
            root. The flow only finds the start then, and no gradient goes through it.
        on_failure: see `Layer`.
        coupled: see `Layer`.
    """

    def __init__(
        self,
        cell: nn.Module,
        solver: Solver[InitialValue, Any] = ODE(),  # noqa: B008  (frozen)
        gradient: Gradient[Any] | None = None,
        *,
        rest_point: bool = True,
        t1: float | None = None,
        polish: Solver[Equilibrium, Any] | None = None,
        on_failure: OnFailure = "warn",
        coupled: bool = False,
    ) -> None:
        end = (HORIZON if rest_point else 1.0) if t1 is None else t1
        super().__init__(cell, end, on_failure, coupled)
        check_answers(solver, InitialValue, "an ImplicitLayer for this solver")
        if polish is not None:
            check_answers(polish, posed_by(cell))
            if not rest_point:
                raise TypeError("polish needs rest_point=True: dz/dt = f(z; x) has no equilibrium.")
        self.solver = solver
        if gradient is not None:
            check_rule(gradient)
        self.gradient = gradient or (Unroll() if polish is None else Implicit())
        self.rest_point = rest_point
        self.polish = polish

    def field(self, t: Tensor, z: Tensor, *condition: Tensor) -> Tensor:
        """Evaluate dz/dt. To evaluate it more than once, take the field of `flow`."""
        return self.flow(self.equation(condition)).field(t, z, *condition)

    def flow(self, equation: Equilibrium, t0: float = 0.0) -> InitialValue:
        """Return the flow of an equation's map f from t0 to t1."""
        f = Guard(equation.map, trusted=equation.rowwise)  # f(z) - z needs z as it was
        rests = self.rest_point

        def field(t: Tensor, z: Any, *condition: Tensor) -> Any:
            image = f(z, *condition)
            if not rests:
                return image
            if isinstance(z, tuple):
                return tuple(part - of_z for part, of_z in zip(image, z, strict=True))
            return image - z

        return InitialValue(
            field,
            t0,
            self.t1,
            equation.condition,
            coupled=equation.coupled,
            rowwise=equation.rowwise,
        )

    @uncompiled
    def answer(
        self,
        condition: tuple[Tensor, ...],
        z0: Tensor | Solution[Tensor],
        *,
        record: bool = False,
    ) -> Solution[Tensor]:
        """Integrate from z0 to t1, and polish; with the gradient attached.

        With `polish`, steps and evaluations are those of both parts and a recorded trajectory
        is the flow's.
        """
        equation = self.equation(condition)
        flow = self.flow(equation)
        if self.polish is None:
            return self.gradient.apply(flow, self.solver, z0, record=record)
        near = solve(flow, self.solver, z0, record=record)
        root = self.gradient.apply(equation, self.polish, near)
        steps, evals = near.steps + root.steps, near.evals + root.evals
        return replace(root, steps=steps, evals=evals, trajectory=near.trajectory)
