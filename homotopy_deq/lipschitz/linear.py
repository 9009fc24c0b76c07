"""Linear maps that stand before and behind bounded layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Grid
from .form import Form
from .layers import BoundedLayer
from .parametrised import Parametrised


class Lift(BoundedLayer):
    """Append channels of zeros: an isometry, so that residual layers have room.

    Arguments:
        inputs: n, entries or channels of x.
        outputs: of the result, at least n.
        grid: see `BoundedLayer`.
    """

    anchor: Tensor

    def __init__(self, inputs: int, outputs: int, *, grid: Grid = None) -> None:
        super().__init__(inputs, outputs, grid, 1)
        if outputs < inputs:
            raise ValueError(f"Lift takes {inputs} channels to at least as many; got {outputs}.")
        self.register_buffer("anchor", torch.zeros(0), persistent=False)  # knows the device

    def compute(self) -> tuple[Tensor, ...]:
        return ()

    def forward(self, x: Tensor) -> Tensor:
        """Return x and zeros, (B, outputs) or (B, outputs, H, W)."""
        self.check_input(x, self.inputs)
        return self.apply_with(x)

    def apply_with(self, x: Tensor, *computed: Tensor) -> Tensor:
        return F.pad(x, (*(0,) * (2 * (x.dim() - 2)), 0, self.outputs - self.inputs))

    def form(self) -> Form:
        """Return it without neurons: D = [I; 0], gamma = 1."""
        eye = torch.eye(self.outputs, self.inputs, dtype=torch.float64, device=self.anchor.device)
        return affine(eye, eye.new_zeros(self.outputs), 1.0, self.grid)


class NormalizedLinear(Parametrised):
    """Return <w_k / ||w_k||, x> + b_k for each class k: the last layer of a classifier.

    Its norm as a map may be anything up to sqrt(K), so a bound of the whole network does not come
    from its rows' norms: it is certified by pairs of rows (`certify_margins`), and refused where
    one constant of all logits is asked for.

    Arguments:
        inputs: n.
        outputs: K, number of classes.

    References:
        S. Singla, S. Singla, S. Feizi (2022), Improved deterministic l2 robustness on CIFAR-10 and
        CIFAR-100.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(None, 1, inputs, outputs)
        self.inputs, self.outputs = inputs, outputs
        self.weight = self.raw(outputs, inputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def compute(self) -> tuple[Tensor, ...]:
        """Compute the matrix with rows of norm 1."""
        return (F.normalize(self.weight),)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, outputs), of x, (B, inputs)."""
        self.check_input(x, self.inputs)
        return F.linear(x, self.computed()[0], self.bias)


def affine(matrix: Tensor, bias: Tensor, gamma: float, grid: Grid = None) -> Form:
    """Return C x + b as a form without neurons: D = C, gamma a bound of ||C||."""
    count = 1 if grid is None else grid[0] * (grid[1] // 2 + 1)
    kind = matrix if grid is None else matrix.to(torch.complex128)
    out, inputs = matrix.shape
    none = matrix.new_zeros(0)
    return Form(
        w=kind.new_zeros(count, 0, 0),
        u=kind.new_zeros(count, 0, inputs),
        v=kind.new_zeros(count, out, 0),
        d=kind.expand(count, -1, -1),
        b=none,
        c=bias,
        metric=none,
        gamma=gamma,
        linear=none.bool(),
        grid=grid,
    )
