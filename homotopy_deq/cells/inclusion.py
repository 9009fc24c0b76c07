"""Cells z -> relu(W z + x) whose weight is built so that there is one equilibrium."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from solvers import MonotoneInclusion
from solvers.structure import Map

from .bounds import Bounds, gram_norm
from .cell import ProvableCell, check_dropout, dropout_mask
from .linear import Circular, Linear, Matrix


class InclusionCell(nn.Module):
    """Map a state and a condition of its shape to f(z; x) = relu(W z + x), W built from parameters.

    W is a matrix if the state is a vector and a circular convolution if it is an image: padded
    so, singular values and resolvents are exact, frequency by frequency. It is computed once per
    solve (`equation`). The model's injection, U x + b of its images, is the x here.

    Arguments:
        shape: of a sample's state, (n,) or (C, H, W).
        kernel: side k of the parameters' kernels, odd; of no meaning for a vector.
        dropout: probability of dropping an entry or a channel of x during a solve, while training.
    """

    def __init__(self, shape: Sequence[int], *, kernel: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if len(shape) not in (1, 3) or min(shape) < 1:
            raise ValueError(f"shape must be (n,) or (channels, height, width); got {shape}.")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 1; got {kernel}.")
        self.shape = tuple(shape)
        self.kernel = kernel
        self.dropout = check_dropout(dropout)

    @property
    def dense(self) -> bool:
        """Whether the state is a vector."""
        return len(self.shape) == 1

    def weight(self) -> Tensor:
        """Return W, (n, n) or (C, C, k, k), as a differentiable function of the parameters."""
        device = next(self.parameters()).device.type
        with torch.autocast(device, enabled=False):  # in half precision W breaks its promise
            weight: Tensor = self.compute()
        return weight

    @abstractmethod
    def compute(self) -> Tensor:
        """Compute W, in the parameters' precision."""

    def operator(self, weight: Tensor) -> Linear:
        """Return z -> W z for a W."""
        return Matrix(weight) if self.dense else Circular(weight, self.shape[1:])  # type: ignore[arg-type]

    def bounds(self, weight: Tensor | None = None) -> Bounds:
        """Return what is proved of W, from W itself in double precision.

        Nothing is taken from how W was built, so this holds however its computation rounded.

        Arguments:
            weight: the W of a forward pass; by default `weight()`. A GPU, or another number of
                threads, may compute other last digits.

        Raises:
            ValueError: I - W is not proved to be strongly monotone, or W is not finite.
        """
        return self.operator(self.weight() if weight is None else weight).bounds()

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return x, and while training with the mask of this solve applied."""
        if self.training and self.dropout > 0:
            return (x * dropout_mask(x, self.shape[0], self.dropout),)
        return (x,)

    def equation(self, condition: tuple[Tensor, ...]) -> MonotoneInclusion:
        """Return z = relu(W z + x), with one W for all of its evaluations."""
        for x in condition:
            if tuple(x.shape[1:]) != self.shape:
                raise ValueError(
                    f"the condition must have shape (B, {', '.join(map(str, self.shape))}); "
                    f"got {tuple(x.shape)}."
                )
        linear = self.operator(self.weight())
        return MonotoneInclusion(
            rowwise=True,
            condition=condition,
            linear=linear,
            resolvent=linear.resolvent,
            moduli=linear.moduli,
        )

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """Evaluate f(z; x), of z's shape. Builds W: to iterate, take the map of `equation`."""
        return self.equation((x,))(z)


class ContractiveCell(InclusionCell):
    """Map z to relu(W z + x) with ||W|| <= contraction < 1:

        W = contraction K / ||K||,   ||K|| bounded from above by Gram iteration (`gram_norm`),

    of a matrix K, or of the blocks of a circular convolution K in the Fourier basis on the grid
    of the state. The bound is differentiated through.

    Arguments:
        shape: as in `InclusionCell`.
        kernel: as in `InclusionCell`.
        dropout: as in `InclusionCell`.
        contraction: in (0, 1).

    References:
        B. Delattre, Q. Barthelemy, A. Araujo, A. Allauzen (2023), Efficient bound of Lipschitz
        constant for convolutional layers by Gram iteration.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        contraction: float = 0.9,
        kernel: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(shape, kernel=kernel, dropout=dropout)
        if not 0 < contraction < 1:
            raise ValueError(f"contraction must be in (0, 1); got {contraction}.")
        self.contraction = contraction
        self.raw = _parameter(self.shape, kernel, 1.0)

    def compute(self) -> Tensor:
        return self.raw * (self.contraction / gram_norm(self.operator(self.raw).blocks))


class MonotoneCell(InclusionCell):
    """Map z to relu(W z + x) with I - W >= m I, whatever ||W|| is:

        W = (1 - m) I - A^T A + B - B^T.

    For an image A and B are circular convolutions with k x k kernels, and W is one with a kernel
    of side 2 k - 1, composed exactly, so that an evaluation is one convolution.

    Arguments:
        shape: as in `InclusionCell`.
        kernel: as in `InclusionCell`.
        dropout: as in `InclusionCell`.
        monotonicity: m in (0, 1].

    References:
        E. Winston, J. Z. Kolter (2020), Monotone operator equilibrium networks.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        monotonicity: float = 0.1,
        kernel: int = 3,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(shape, kernel=kernel, dropout=dropout)
        if not 0 < monotonicity <= 1:
            raise ValueError(f"monotonicity must be in (0, 1]; got {monotonicity}.")
        self.monotonicity = monotonicity
        # ||A|| is about 1 and ||B - B^T|| about 0.7 for matrices of these gains.
        self.gram = _parameter(self.shape, kernel, 0.5)
        self.skew = _parameter(self.shape, kernel, 0.25)

    def compute(self) -> Tensor:
        a, b = self.gram, self.skew
        eye = torch.eye(self.shape[0], dtype=a.dtype, device=a.device)
        if self.dense:
            return (1 - self.monotonicity) * eye - a.mT @ a + b - b.mT
        r = self.kernel - 1  # the kernel of A^T A has its centre there
        # At offset s it is the sum over d of a[d]^T a[s + d]: a correlation of a with itself.
        square = F.conv2d(a.transpose(0, 1), a.transpose(0, 1), padding=r).transpose(0, 1)
        turned = b.transpose(0, 1).flip(2, 3)  # B^T
        edge = r // 2
        identity = F.pad(eye[:, :, None, None], (r, r, r, r))
        skew = F.pad(b - turned, (edge, edge, edge, edge))
        return (1 - self.monotonicity) * identity - square + skew


class FixedCell(InclusionCell):
    """Map z to relu(W z + x) with the W of another cell at one moment, to the bit.

    Its resolvent is inverted once, and not in each solve.

    Arguments:
        cell: whose W.
    """

    matrix: Tensor

    def __init__(self, cell: ProvableCell) -> None:
        weight = cell.weight().detach().clone()
        super().__init__(cell.shape, kernel=weight.shape[-1] if weight.dim() == 4 else 1)
        self.register_buffer("matrix", weight)
        self._inverses: tuple[Tensor, dict[float, Map]] = weight.clone(), {}

    def equation(self, condition: tuple[Tensor, ...]) -> MonotoneInclusion:
        """Return z = relu(W z + x)."""
        whole = super().equation(condition)
        invert = whole.resolvent
        assert invert is not None

        def kept(alpha: float) -> Map:
            if self.matrix.requires_grad or torch.compiler.is_compiling():
                return invert(alpha)  # a caller has put another tensor there, to differentiate by
            of, known = self._inverses
            alike = of.dtype == self.matrix.dtype and of.device == self.matrix.device
            if not (alike and torch.equal(of, self.matrix)):  # it may be written to, as by a load
                known = {}
                self._inverses = self.matrix.detach().clone(), known
            if alpha not in known:
                with torch.inference_mode(False), torch.no_grad():  # of use to any later caller
                    known[alpha] = invert(alpha)
            return known[alpha]

        return replace(whole, resolvent=kept)

    @property
    def monotonicity(self) -> float:
        """A proved m > 0 with I - W >= m I; ValueError if there is none."""
        return self.bounds().monotonicity

    def weight(self) -> Tensor:
        """Return W, a constant."""
        return self.matrix

    def compute(self) -> Tensor:
        return self.matrix


def _parameter(shape: tuple[int, ...], kernel: int, gain: float) -> nn.Parameter:
    n = shape[0]
    size = (n, n) if len(shape) == 1 else (n, n, kernel, kernel)
    terms = math.prod(size[1:])
    return nn.Parameter(torch.randn(size) * (gain / math.sqrt(terms)))
