"""The cell of a monotone operator equilibrium network, with its constant."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from solvers import MonotoneInclusion

from ..cells import FixedCell, MonotoneCell, ProvableCell
from ..cells.bounds import gram_norm
from .blocks import Grid, blocks_of
from .cells import EquilibriumCell
from .form import Form
from .layers import FLOOR


class MonDEQCell(EquilibriumCell):
    """The cell of a monotone operator equilibrium network: W of a `MonotoneCell`.

    gamma is ||U|| ||V|| / m, with upper bounds of the norms.

    Arguments:
        inputs: as in `EquilibriumCell`.
        hidden: as in `EquilibriumCell`.
        outputs: as in `EquilibriumCell`.
        monotonicity: m in (0, 1].
        grid: see `Parametrised`.
        kernel: see `Parametrised`.

    References:
        E. Winston, J. Z. Kolter (2020), Monotone operator equilibrium networks.
        C. Pabbaraju, E. Winston, J. Z. Kolter (2021), Estimating Lipschitz constants of monotone
        deep equilibrium models.
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
    ) -> None:
        super().__init__(inputs, hidden, outputs, grid, kernel)
        self.cell: MonotoneCell | FixedCell = MonotoneCell(
            (hidden, *(self.grid or ())), monotonicity=monotonicity, kernel=kernel
        )

    @classmethod
    def around(cls, cell: ProvableCell) -> MonDEQCell:
        """Return the map x -> z* = relu(W z* + x), with the W that a cell has now, to the bit."""
        n, *grid = cell.shape
        made = cls(n, n, n, grid=(grid[0], grid[1]) if grid else None, kernel=1)
        eye = torch.eye(n)
        with torch.no_grad():
            made.u.copy_(eye.view_as(made.u))
            made.v.copy_(eye.view_as(made.v))
        made.cell = FixedCell(cell)
        made.kernel = made.cell.kernel  # of W, whose taps round
        return made.to(made.cell.matrix)

    def compute(self) -> tuple[Tensor, ...]:
        return (self.cell.weight(),)

    def _norms(self) -> tuple[float, float]:
        u, v = (gram_norm(self.blocks(t.detach().double()), steps=20) for t in (self.u, self.v))
        return max(float(u), FLOOR), max(float(v), FLOOR)

    @property
    def gamma(self) -> float:
        u, v = self._norms()
        return u * v / self.cell.monotonicity

    def form(self) -> Form:
        """Return it with L = (||V|| / ||U||) I."""
        u, v = self._norms()
        with torch.no_grad():
            w = blocks_of(copy.deepcopy(self.cell).double().weight(), self.grid)
        metric = torch.full_like(self.b.detach().double(), v / u)
        return self._form(w, metric, u * v / self.cell.monotonicity)

    def equation(self, condition: tuple[Tensor, ...]) -> MonotoneInclusion:
        return self.cell.equation(condition)
