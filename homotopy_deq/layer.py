"""What every layer is: a cell, a path to its answer, and how that is differentiated."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn

from solvers import (
    Equilibrium,
    Gradient,
    InitialValue,
    Solution,
    Solver,
)
from solvers.driver import answered_by
from solvers.times import Times
from solvers.transforms import check_untransformed, uncompiled

from .cells.cell import check_cell
from .entry import FAULTS, check_choice, check_rule, condition_of, explain, start_of, tell
from .entry import ConvergenceWarning as ConvergenceWarning
from .equations import equation_of, restless
from .finite import finite_rows, put_back, rows_of
from .polish import polished
from .twin import twin

OnFailure = Literal["warn", "raise", "ignore"]

FLOWS = ("rest_point", "t0", "times", "interpolate")
"""What a flow keeps, beside its gradient, when its solver is swapped."""

HORIZON = 5.0
"""How long a flow with a rest point runs: a slowest mode e^-t has then decayed to below 1%."""


class Layer(nn.Module):
    """A cell, where its solves start, and what is done about samples that fail.

    `layer(x)` returns the answer as a tensor and acts on failures by `on_failure`. `layer.solve`
    returns the `Solution`, which carries every sample's status, and neither warns nor raises.

    Arguments:
        cell: a module `cell(z, x)`; see `homotopy_deq.cells.Cell` for what else it may define.
        solver: of the layer's kind of problem.
        gradient: a rule for that kind.
        t1: where the flow ends, or where one ends that `with_solver` puts in its place: a number,
            or an `nn.Parameter` that is learned with the others.
        on_failure: what `layer(x)` does if a sample did not converge: "warn" (a
            `ConvergenceWarning`), "raise" (a `SolveError`) or "ignore".
        coupled: the rows are one system, as the nodes of a graph are or samples that share
            batch statistics: one norm and one status for all, and none is ever dropped.
    """

    rest_point: bool = True
    t0: float = 0.0
    times: Times | None
    interpolate: bool = False
    one_equation: bool = True
    """Whether `solver` finds the answer to `equation`, alone: a stack of layers has several."""
    spare: Mapping[str, Any]
    """What the layer of the other kind of answer, root or z(t1), had, for a swap back to it."""

    def __init__(
        self,
        cell: nn.Module,
        solver: Solver[Any, Any],
        gradient: Gradient[Any],
        *,
        t1: float | Tensor,
        on_failure: OnFailure,
        coupled: bool,
    ) -> None:
        super().__init__()
        check_cell(cell)
        check_choice("on_failure", on_failure, get_args(OnFailure))
        check_rule(gradient)
        self.cell = cell
        self.solver = solver
        self.gradient = gradient
        self.t1: float | Tensor = t1
        self.on_failure = on_failure
        self.coupled = coupled
        self.spare = {}
        self.times = None  # no attribute of the class, which would hide a parameter of that name

    @abstractmethod
    def problem(self, condition: tuple[Tensor, ...]) -> Any:
        """Return what the layer's solver answers, for a condition."""

    @uncompiled
    def answer(
        self,
        condition: tuple[Tensor, ...],
        z0: Tensor | Solution[Tensor],
        *,
        record: bool = False,
    ) -> Solution[Tensor]:
        """Solve the layer's problem for a condition from a start, with the gradient attached."""
        return self.gradient.apply(self.problem(condition), self.solver, z0, record=record)

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
            gradient: by default this layer's, or where the kind of answer changes that of the
                layer which this one was made from; else the other layer's default. Likewise t0
                and times of a flow.
            t1: where the flow ends; this layer's by default.
            polish: goes; `with_solver(Then(Flow(), polish))` is what to write.

        Raises:
            TypeError: this flow has no rest point, and the solver is one of equilibria; or the
                gradient that is kept does not differentiate what the solver finds, and one that
                does is to be given.
        """
        from .layers import FlowLayer, ImplicitLayer  # which are made of this one

        if polish is not None:
            solver = polished(solver, polish)
        flows = issubclass(answered_by(solver), InitialValue)
        if not flows and not self.rest_point:
            raise restless(solver)
        same = isinstance(self, FlowLayer) == flows
        own: dict[str, Any] = {"gradient": self.gradient}
        if isinstance(self, FlowLayer):
            own |= {name: getattr(self, name) for name in FLOWS}
        settings: dict[str, Any] = {
            "t1": self.t1 if t1 is None else t1,
            "on_failure": self.on_failure,
            "coupled": self.coupled,
            **(own if same else self.spare),
            **({} if gradient is None else {"gradient": gradient}),
        }
        kind: type[Any] = FlowLayer if flows else ImplicitLayer
        other: Layer = kind(twin(self.cell), solver, **settings)
        other.training = self.training  # train() would reach into the cell, whose mode is its own
        other.spare = self.spare if same else own
        return other

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return what the cell is iterated with: once per solve, so it may draw a mask."""
        return condition_of(self.cell, x)

    def equation(self, condition: tuple[Tensor, ...]) -> Equilibrium:
        """Return the equation z = f(z, *condition) of one solve: the cell's own, where it has one.

        Its map is what a solve evaluates, with all that the cell computes once per solve in it.
        """
        return equation_of(self.cell, condition, coupled=self.coupled)

    def initial(self, x: Tensor) -> Any:
        """Return the start of a solve: the cell's, a tensor or a tuple, or zero of x's shape."""
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
        except FAULTS as error:
            equation = partial(self.equation, condition)
            explain(self.cell, x, equation, start, z0 is not None, error)
            raise

    @uncompiled
    def forward(self, x: Tensor) -> Tensor:
        """Return the answer for the condition x."""
        return self.accept(self.solve(x))

    def accept(self, solution: Solution[Tensor]) -> Tensor:
        """Return a solution's value; if a sample failed, first do what `on_failure` says."""
        tell(solution, self.on_failure)
        return solution.value

    def __prepare_scriptable__(self) -> Layer:
        """Refuse `torch.jit.script`, which would look into the solver."""
        raise NotImplementedError(
            "torch.jit.script cannot compile a solve. Script the cell, layer.cell, and solve "
            "around it; for speed use torch.compile(cell)."
        )

    def extra_repr(self) -> str:
        """Show the settings in `print(layer)`."""
        names = ("solver", "gradient", "t1", "rest_point", "on_failure", "coupled")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)
