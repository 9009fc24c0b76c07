"""Layers with a Lipschitz constant of at most 1 by construction, each an LBEN in disguise."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..cells.bounds import gram_norm
from .blocks import Grid, act, blocks_of, convolve, row_sums, spread
from .form import Form
from .parametrised import Parametrised

SMALL = 1e-6
"""Kept away from 0: the row sums that SLL and AOL divide by, relative to their mean. Without it a
row of zeros makes training end at chance level; with it each t_i only becomes smaller."""
FLOOR = 1e-30
"""Of what t divides by: where all of K is 0 the layer is the identity, and t K^T must stay 0."""


class BoundedLayer(Parametrised):
    """A map of vectors (B, n) or images (B, n, H, W) with a Lipschitz constant of at most 1.

    Arguments:
        inputs: n, entries of a vector or channels of an image.
        outputs: entries or channels of the result.
        grid: see `Parametrised`.
        kernel: see `Parametrised`.
    """

    def __init__(self, inputs: int, outputs: int, grid: Grid, kernel: int) -> None:
        super().__init__(grid, kernel, inputs, outputs)
        self.inputs, self.outputs = inputs, outputs

    @abstractmethod
    def apply_with(self, x: Tensor, *computed: Tensor) -> Tensor:
        """Return the map at x, given what `compute` returned."""

    @abstractmethod
    def form(self) -> Form:
        """Return the layer as an equilibrium network with its metric, in double precision."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the map at x, (B, inputs) or (B, inputs, H, W)."""
        self.check_input(x, self.inputs)
        return self.apply_with(x, *self.computed())


class _Residual(BoundedLayer):
    """x - K^T (t * relu(K x + b)), K of m rows."""

    def __init__(
        self, features: int, hidden: int | None = None, *, grid: Grid = None, kernel: int = 3
    ) -> None:
        super().__init__(features, features, grid, kernel)
        self.hidden = features if hidden is None else hidden
        self.weight = self.raw(self.hidden, features)
        self.bias = nn.Parameter(torch.zeros(self.hidden))

    @abstractmethod
    def scales(self, weight: Tensor) -> Tensor:
        """Return t, (m,)."""

    def compute(self) -> tuple[Tensor, ...]:
        return self.weight, self.scales(self.weight)

    def apply_with(self, x: Tensor, *computed: Tensor) -> Tensor:
        weight, t = computed
        inner = convolve(weight, x)
        inner = (inner + spread(self.bias, inner)).relu()
        return x - convolve(weight, spread(t, inner) * inner, transposed=True)

    def form(self) -> Form:
        """Return it with W = 0, U = K, V = -K^T diag(t), D = I, L = diag(t)."""
        weight = self.weight.detach().double()
        t = self.scales(weight).detach()
        k = blocks_of(weight, self.grid)
        form = explicit(k, self.bias.detach().double(), -k.mH * t, t, self.grid)
        eye = torch.eye(self.inputs, dtype=k.dtype, device=k.device)
        return replace(form, d=eye.expand(len(k), -1, -1))


class CPL(_Residual):
    """Step against the gradient of a convex potential: x - (2 / ||K||^2) K^T relu(K x + b).

    ||K|| is bounded from above by Gram iteration (`gram_norm`), for a circular convolution
    frequency by frequency.

    Arguments:
        features: n, entries or channels of x and of the result.
        hidden: rows of K; n by default.
        grid: see `BoundedLayer`.
        kernel: see `BoundedLayer`.

    References:
        L. Meunier, B. Delattre, A. Araujo, A. Allauzen (2022), A dynamical system perspective for
        Lipschitz neural networks.
    """

    def scales(self, weight: Tensor) -> Tensor:
        norm = gram_norm(blocks_of(weight, self.grid))
        return (2 / norm.square().clamp_min(FLOOR)).expand(self.hidden)


class SLL(_Residual):
    """Apply an SDP-based Lipschitz layer: x - K^T (t * relu(K x + b)),

        t_i = 2 / sum_j |K K^T|_ij q_j / q_i,   q = exp of a parameter.

    Arguments:
        features: n, entries or channels of x and of the result.
        hidden: rows of K; n by default.
        grid: see `BoundedLayer`.
        kernel: see `BoundedLayer`.

    References:
        A. Araujo, A. Havens, B. Delattre, A. Allauzen, B. Hu (2023), A unified algebraic
        perspective on Lipschitz neural networks. Differs in q = exp(.), and in `SMALL`.
    """

    def __init__(
        self, features: int, hidden: int | None = None, *, grid: Grid = None, kernel: int = 3
    ) -> None:
        super().__init__(features, hidden, grid=grid, kernel=kernel)
        self.log_q = nn.Parameter(torch.zeros(self.hidden))

    def scales(self, weight: Tensor) -> Tensor:
        q = self.log_q.to(weight.dtype).exp()
        sums = (row_sums(weight) * q).sum(1) / q
        return 2 / _away_from_zero(sums)


class AOL(BoundedLayer):
    """Apply an almost orthogonal layer: relu(P diag(s) x + b), s_i = (sum_j |P^T P|_ij)^-1/2.

    Arguments:
        inputs: n, entries or channels of x.
        outputs: of the result.
        grid: see `BoundedLayer`.
        kernel: see `BoundedLayer`.

    References:
        B. Prach, C. Lampert (2022), Almost-orthogonal layers for efficient general-purpose
        Lipschitz networks.
    """

    def __init__(self, inputs: int, outputs: int, *, grid: Grid = None, kernel: int = 3) -> None:
        super().__init__(inputs, outputs, grid, kernel)
        self.weight = self.raw(outputs, inputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def compute(self) -> tuple[Tensor, ...]:
        return (_almost_orthogonal(self.weight),)

    def apply_with(self, x: Tensor, *computed: Tensor) -> Tensor:
        y = convolve(computed[0], x)
        return (y + spread(self.bias, y)).relu()

    def form(self) -> Form:
        """Return it with W = 0, U = P diag(s), V = I, D = 0, L = I."""
        u = blocks_of(_almost_orthogonal(self.weight.detach().double()), self.grid)
        bias = self.bias.detach().double()
        return explicit(u, bias, torch.eye(self.outputs, dtype=u.dtype, device=u.device),
                        torch.ones_like(bias), self.grid)  # fmt: skip


class Sandwich(BoundedLayer):
    """Apply sqrt2 A^T diag(p) relu(sqrt2 diag(1/p) B x + b), with A A^T + B B^T = I:

        [A B]^T = [(I + Z)^-1 (I - Z); -2 Y (I + Z)^-1],   Z = X - X^T + Y^T Y,   p = exp(.),

    Cayley's transform, for a circular convolution in each frequency.

    Arguments:
        inputs: n, entries or channels of x.
        outputs: of the result, and neurons.
        grid: see `BoundedLayer`.
        kernel: see `BoundedLayer`.

    References:
        R. Wang, I. Manchester (2023), Direct parameterization of Lipschitz-bounded deep networks.
    """

    def __init__(self, inputs: int, outputs: int, *, grid: Grid = None, kernel: int = 3) -> None:
        super().__init__(inputs, outputs, grid, kernel)
        self.skew = self.raw(outputs, outputs)
        self.weight = self.raw(inputs, outputs)
        self.log_p = nn.Parameter(torch.zeros(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def compute(self) -> tuple[Tensor, ...]:
        return self._weights(self.skew, self.weight, self.log_p.exp())

    def apply_with(self, x: Tensor, *computed: Tensor) -> Tensor:
        into, out = computed
        inner = act(into, x)
        return act(out, (inner + spread(self.bias, inner)).relu())

    def form(self) -> Form:
        """Return it with W = 0, U = sqrt2 p^-1 B, V = sqrt2 A^T p, D = 0, L = diag(p^2)."""
        skew, weight = (t.detach().double() for t in (self.skew, self.weight))
        p, bias = self.log_p.detach().double().exp(), self.bias.detach().double()
        u, v = self._weights(skew, weight, p)
        return explicit(u, bias, v, p.square(), self.grid)

    def _weights(self, skew: Tensor, weight: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        """Return the blocks of sqrt2 p^-1 B and of sqrt2 A^T p."""
        a, b = _cayley(blocks_of(skew, self.grid), blocks_of(weight, self.grid))
        return math.sqrt(2) / p[:, None] * b, math.sqrt(2) * a.mH * p


def explicit(u: Tensor, b: Tensor, v: Tensor, metric: Tensor, grid: Grid) -> Form:
    """Return the form of V relu(U x + b), 1-Lipschitz in a metric."""
    count, n, d = u.shape
    v = v if v.dim() == 3 else v.expand(count, -1, -1)
    return Form(
        w=u.new_zeros(count, n, n),
        u=u,
        v=v,
        d=u.new_zeros(count, v.shape[1], d),
        b=b,
        c=b.new_zeros(v.shape[1]),
        metric=metric,
        gamma=1.0,
        linear=torch.zeros_like(b, dtype=torch.bool),
        grid=grid,
    )


def _almost_orthogonal(weight: Tensor) -> Tensor:
    """Return P diag(s)."""
    s = _away_from_zero(row_sums(weight.transpose(0, 1)).sum(1)).rsqrt()
    return weight * s.view(1, -1, *(1,) * (weight.dim() - 2))


def _away_from_zero(sums: Tensor) -> Tensor:
    return sums + SMALL * sums.detach().mean() + FLOOR


def _cayley(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return A (F, m, m) and B (F, m, n) with A A^H + B B^H = I, of X (F, m, m), Y (F, n, m)."""
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    z = x - x.mH + y.mH @ y
    top = torch.linalg.solve(eye + z, eye - z)
    bottom = -2 * y @ torch.linalg.inv(eye + z)
    return top.mH, bottom.mH
