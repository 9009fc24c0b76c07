"""Cells whose equilibria have a Lipschitz constant of at most gamma for any parameters."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from solvers import MonotoneInclusion

from ..cells.linear import Frequencies, Matrix
from .blocks import Grid, act, blocks_of, convolve, kernel_of, spectrum, spread
from .form import Form
from .parametrised import Parametrised

EPSILON = 1e-3
"""Added to V^T V of an `LBEN` from scratch, so that it is strongly monotone whatever V is."""
ABSENT = 1e-12
"""Entries of W that are no larger, beside its largest, are rounding of the Fourier transform."""


class EquilibriumCell(Parametrised):
    """The cell of z* = phi(W z* + U x + b), and the output V z* + c.

    Arguments:
        inputs: entries or channels of x.
        hidden: of the state.
        outputs: of the output.
        grid: see `Parametrised`.
        kernel: see `Parametrised`.
        full: see `Parametrised`.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        grid: Grid,
        kernel: int,
        *,
        full: bool = False,
    ) -> None:
        super().__init__(grid, kernel, inputs, hidden, outputs, full=full)
        self.inputs, self.hidden, self.outputs = inputs, hidden, outputs
        self.u = self.raw(hidden, inputs)
        self.v = self.raw(outputs, hidden)
        self.b = nn.Parameter(torch.zeros(hidden))
        self.c = nn.Parameter(torch.zeros(outputs))

    @property
    @abstractmethod
    def gamma(self) -> float:
        """The Lipschitz constant from x to the output."""

    @abstractmethod
    def form(self) -> Form:
        """Return W, U, V and the metric in double precision."""

    @abstractmethod
    def equation(self, condition: tuple[Tensor, ...]) -> MonotoneInclusion:
        """Return z = phi(W z + condition), with one W for all of its evaluations."""

    def _form(self, w: Tensor, metric: Tensor, gamma: float) -> Form:
        u, v = (self.blocks(t.detach().double()) for t in (self.u, self.v))
        return Form(
            w=w,
            u=u,
            v=v,
            d=u.new_zeros(len(u), self.outputs, self.inputs),
            b=self.b.detach().double(),
            c=self.c.detach().double(),
            metric=metric,
            gamma=gamma,
            linear=torch.zeros_like(metric, dtype=torch.bool),
            grid=self.grid,
        )

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return U x + b."""
        self.check_input(x, self.inputs)
        return (self.product(self.u, x, self.b),)

    def initial(self, x: Tensor) -> Tensor:
        """Return 0."""
        return x.new_zeros(len(x), self.hidden, *(self.grid or ()), dtype=self.b.dtype)

    def read(self, z: Tensor) -> Tensor:
        """Return V z + c."""
        return self.product(self.v, z, self.c)

    def forward(self, z: Tensor, given: Tensor) -> Tensor:
        """Evaluate phi(W z + given). Builds W: to iterate, take the map of `equation`."""
        return self.equation((given,))(z)

    def blocks(self, weight: Tensor) -> Tensor:
        """Return the blocks of U or V, (F, m, n)."""
        return blocks_of(weight, self.grid)

    def product(self, weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        """Return U x + b or V z + c."""
        y = convolve(weight, x)
        return y + spread(bias, y)


class LBENCell(EquilibriumCell):
    """The direct parametrisation of an LBEN: the inequality of `Form` holds for any parameters,

        W = I - Psi (V^T V / (2 gamma) + Psi^-1 U U^T Psi^-1 / (2 gamma) + G^T G + eps I + S - S^T),

    L = Psi^-1 = diag(exp(-psi)), which gives Q = 2 G^T G + 2 eps I exactly.

    Arguments:
        inputs: as in `EquilibriumCell`.
        hidden: as in `EquilibriumCell`.
        outputs: as in `EquilibriumCell`.
        gamma: the Lipschitz constant, above 0.
        epsilon: eps, at least 0.
        full: the kernels cover the whole grid, as `to_lben` needs; see `Parametrised`.
        grid: see `Parametrised`.
        kernel: see `Parametrised`.

    References:
        M. Revay, R. Wang, I. Manchester (2020), Lipschitz bounded equilibrium networks.
    """

    linear: Tensor
    absent: Tensor

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        *,
        gamma: float = 1.0,
        epsilon: float = EPSILON,
        full: bool = False,
        grid: Grid = None,
        kernel: int = 3,
    ) -> None:
        super().__init__(inputs, hidden, outputs, grid, kernel, full=full)
        if not (0 < gamma < float("inf") and epsilon >= 0):
            raise ValueError(
                f"gamma must be above 0 and epsilon 0 or more; got {gamma} and {epsilon}."
            )
        self._gamma, self.epsilon = gamma, epsilon
        self.psi = nn.Parameter(torch.zeros(hidden))
        self.gram = self.raw(hidden, hidden, 0.5)
        self.skew = self.raw(hidden, hidden, 0.25)
        self.register_buffer("linear", torch.zeros(hidden, dtype=torch.bool))
        if full:
            self.register_buffer("absent", torch.zeros_like(self.gram, dtype=torch.bool))

    @classmethod
    def of(cls, form: Form) -> LBENCell:
        """Return the cell with the map of a form, to the rounding of double precision.

        Raises:
            ValueError: the inequality does not hold, so that no such parameters exist.
        """
        form = form.without_feedthrough()
        sizes = form.u.shape[2], len(form.b), form.v.shape[1]
        cell = cls(*sizes, gamma=form.gamma, epsilon=0.0, full=True, grid=form.grid, kernel=1)
        cell = cell.to(form.b)
        metric, eye = form.metric, torch.eye(len(form.b), dtype=form.w.dtype)
        lu = metric[:, None] * form.u
        m = metric[:, None] * (eye.to(form.w) - form.w)
        size = float(torch.linalg.matrix_norm(m).amax())
        m = m - (form.v.mH @ form.v + lu @ lu.mH) / (2 * form.gamma)
        values, vectors = torch.linalg.eigh((m + m.mH) / 2)
        if float(values.amin()) < -1e-10 * size:
            raise ValueError(
                f"the form is no LBEN of gamma {form.gamma:.6g}: its matrix has the eigenvalue "
                f"{2 * float(values.amin()):.3g}."
            )
        # The square root is hermitian, so that at opposite frequencies it is conjugate, too.
        gram = vectors * values.clamp_min(0).sqrt()[..., None, :] @ vectors.mH
        new = {"u": form.u, "v": form.v, "gram": gram, "skew": m / 2}
        with torch.no_grad():
            for name, blocks in new.items():
                getattr(cell, name).copy_(kernel_of(blocks, form.grid))
            cell.psi.copy_(-metric.log())
            cell.b.copy_(form.b)
            cell.c.copy_(form.c)
            cell.linear.copy_(form.linear)
            w = kernel_of(form.w, form.grid).abs()
            cell.absent.copy_(w <= ABSENT * w.amax())
        return cell

    @property
    def gamma(self) -> float:
        return self._gamma

    def departure(self) -> Tensor:
        """Return ||W * 1[W_0 = 0]||_1, W_0 that of the form it was made `of`, 0-d; 0 of another.

        As a penalty it keeps an explicit network's structure while its LBEN is trained.

        References:
            A. Havens et al. (2023), as in `Form`.
        """
        if not self.full:
            return self.psi.new_zeros(())
        (weight,) = self.computed()
        return (kernel_of(weight, self.grid) * self.absent).abs().sum()

    def blocks(self, weight: Tensor) -> Tensor:
        return spectrum(weight, self.grid) if self.full else blocks_of(weight, self.grid)

    def product(self, weight: Tensor, x: Tensor, bias: Tensor) -> Tensor:
        if not self.full:
            return super().product(weight, x, bias)
        y = act(self.blocks(weight), x)
        return y + spread(bias, y)

    def compute(self) -> tuple[Tensor, ...]:
        """Compute the blocks of W."""
        return (self._weight(self.psi, self.u, self.v, self.gram, self.skew),)

    def _weight(self, psi: Tensor, *parameters: Tensor) -> Tensor:
        u, v, g, s = (self.blocks(each) for each in parameters)
        scale, eye = psi.exp(), torch.eye(self.hidden, dtype=u.dtype, device=u.device)
        lu = u / scale[:, None]
        half = (v.mH @ v + lu @ lu.mH) / (2 * self.gamma)
        return eye - scale[:, None] * (half + g.mH @ g + self.epsilon * eye + s - s.mH)

    def form(self) -> Form:
        names = ("psi", "u", "v", "gram", "skew")
        psi, *others = (getattr(self, name).detach().double() for name in names)
        form = self._form(self._weight(psi, *others), (-psi).exp(), self.gamma)
        return replace(form, linear=self.linear & self.full)

    def equation(self, condition: tuple[Tensor, ...]) -> MonotoneInclusion:
        (weight,) = self.computed()
        return MonotoneInclusion(
            rowwise=True,
            condition=condition,
            linear=self._map(weight),
            resolvent=lambda alpha: self._map(_inverse(weight, alpha)),
            moduli=lambda: self.form().moduli(),
            metric=spread((-self.psi.detach()).exp(), condition[0]),
            prox=self._phi,
        )

    def _map(self, blocks: Tensor) -> Matrix | Frequencies:
        if self.grid is None:
            return Matrix(blocks[0])
        height, width = self.grid
        return Frequencies(blocks.view(height, width // 2 + 1, *blocks.shape[1:]))

    def _phi(self, v: Tensor) -> Tensor:
        if self.full:  # only a form brings linear neurons
            return torch.where(spread(self.linear, v), v, v.relu())
        return v.relu()


def departure(network: nn.Module) -> Tensor:
    """Return the sum of `LBENCell.departure` over the equilibria in a module, 0-d.

    Arguments:
        network: any module.
    """
    cells = [part for part in network.modules() if isinstance(part, LBENCell)]
    none = torch.zeros((), device=next(network.parameters()).device)
    return sum((cell.departure() for cell in cells), none)


def _inverse(weight: Tensor, alpha: float) -> Tensor:
    """Return the blocks of (I + alpha (I - W))^-1."""
    eye = torch.eye(weight.shape[-1], dtype=weight.dtype, device=weight.device)
    inverse: Tensor = torch.linalg.inv((1 + alpha) * eye - alpha * weight)
    return inverse
