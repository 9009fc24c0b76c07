"""Equilibrium networks: a cell with a proved constant, and a path to its equilibrium."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from solvers import Equilibrium, Gradient, Implicit, NewtonKrylov, PeacemanRachford, Solver

from ..layers import ImplicitLayer, Layer, OnFailure
from .blocks import Grid
from .cells import EPSILON, EquilibriumCell, LBENCell
from .form import Form
from .mondeq import MonDEQCell

BY_GMRES = Implicit(NewtonKrylov(rtol=1e-6))
"""Where ||W|| > 1 the iteration u <- J^T u + v need not contract, and Anderson's diverges."""


class EquilibriumNetwork(nn.Module):
    """Return V z* + c, z* = phi(W z* + U x + b), whatever path finds z*.

    Arguments:
        cell: holds the weights.
        solver: the path to the equilibrium.
        gradient: how it is differentiated.
        on_failure: see `homotopy_deq.layers.Layer`.
    """

    def __init__(
        self,
        cell: EquilibriumCell,
        solver: Solver[Equilibrium, Any] = PeacemanRachford(),  # noqa: B008  (frozen)
        gradient: Gradient[Equilibrium] = BY_GMRES,
        on_failure: OnFailure = "warn",
    ) -> None:
        super().__init__()
        self.layer: Layer = ImplicitLayer(cell, solver, gradient, on_failure=on_failure)

    @property
    def cell(self) -> EquilibriumCell:
        """The weights."""
        return self.layer.cell  # type: ignore[return-value]

    @property
    def gamma(self) -> float:
        """The Lipschitz constant that the construction promises; `certify_lipschitz` checks it."""
        return self.cell.gamma

    def form(self) -> Form:
        """Return the weights and the metric in double precision."""
        return self.cell.form()

    def lmi(self) -> tuple[Tensor, float]:
        """Return the matrix that proves gamma and its least eigenvalue, see `Form`."""
        return self.form().lmi()

    def forward(self, x: Tensor) -> Tensor:
        """Return the output, (B, outputs) or (B, outputs, H, W)."""
        return self.cell.read(self.layer(x))


class LBEN(EquilibriumNetwork):
    """An equilibrium network with ||y(x) - y(x')|| <= gamma ||x - x'|| for any parameters.

    Arguments:
        inputs: see `LBENCell`.
        hidden: see `LBENCell`.
        outputs: see `LBENCell`.
        gamma: see `LBENCell`.
        epsilon: see `LBENCell`.
        grid: see `LBENCell`.
        kernel: see `LBENCell`.
        solver: see `EquilibriumNetwork`.
        gradient: see `EquilibriumNetwork`.
        on_failure: see `EquilibriumNetwork`.

    Example:
        >>> network = LBEN(8, 32, 3, gamma=2.0)
        >>> network(torch.randn(5, 8)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        gamma: float = 1.0,
        epsilon: float = EPSILON,
        grid: Grid = None,
        kernel: int = 3,
        solver: Solver[Equilibrium, Any] = PeacemanRachford(),  # noqa: B008  (frozen)
        gradient: Gradient[Equilibrium] = BY_GMRES,
        on_failure: OnFailure = "warn",
    ) -> None:
        cell = LBENCell(
            inputs, hidden, outputs, gamma=gamma, epsilon=epsilon, grid=grid, kernel=kernel
        )
        super().__init__(cell, solver, gradient, on_failure)


class MonDEQ(EquilibriumNetwork):
    """A monotone operator equilibrium network between affine maps.

    Arguments:
        inputs: see `MonDEQCell`.
        hidden: see `MonDEQCell`.
        outputs: see `MonDEQCell`.
        monotonicity: see `MonDEQCell`.
        grid: see `MonDEQCell`.
        kernel: see `MonDEQCell`.
        solver: see `EquilibriumNetwork`.
        gradient: see `EquilibriumNetwork`.
        on_failure: see `EquilibriumNetwork`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        monotonicity: float = 0.1,
        grid: Grid = None,
        kernel: int = 3,
        solver: Solver[Equilibrium, Any] = PeacemanRachford(),  # noqa: B008  (frozen)
        gradient: Gradient[Equilibrium] = BY_GMRES,
        on_failure: OnFailure = "warn",
    ) -> None:
        cell = MonDEQCell(
            inputs, hidden, outputs, monotonicity=monotonicity, grid=grid, kernel=kernel
        )
        super().__init__(cell, solver, gradient, on_failure)
