"""torchdeq's dropout whose mask holds for a whole solve."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..cells.cell import check_dropout, drawn_mask


class VariationalDropout(nn.Module):
    """Multiply by a mask of 0 and 1 / (1 - p), drawn at the first use after `reset_deq`.

    A mask that were drawn anew at each evaluation would leave the equation without an answer.

    Arguments:
        dropout: p in [0, 1), the share that is 0; in evaluation nothing is.
    """

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        self.dropout = check_dropout(dropout)
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the masked tensor, of x's shape."""
        if not self.training or self.dropout == 0:
            return x
        shape = self._shape(x)
        if self.mask is None:
            self.mask = drawn_mask(x, shape, self.dropout)
        if self.mask.shape != shape:
            raise ValueError(
                f"A dropout mask of {tuple(self.mask.shape)} met an input of {tuple(x.shape)}: "
                "call reset_deq(model) before each solve, and give f no injections as arguments."
            )
        return x * self.mask

    def extra_repr(self) -> str:
        return f"dropout={self.dropout}"

    def _shape(self, x: Tensor) -> torch.Size:
        return x.shape

    def _along(self, x: Tensor, *dims: int) -> torch.Size:
        """Return x's shape with 1 in all dimensions but these."""
        kept = {dim % x.dim() for dim in dims}
        return torch.Size(n if k in kept else 1 for k, n in enumerate(x.shape))


class VariationalDropout1d(VariationalDropout):
    """Drop whole features, of all tokens of a sample alike; 2d and 3d are the same.

    Arguments:
        dropout: as in `VariationalDropout`.
        token_first: inputs are (B, ..., D), not (B, D, ...).
    """

    def __init__(self, dropout: float = 0.5, token_first: bool = True) -> None:
        super().__init__(dropout)
        self.token_first = token_first

    def _shape(self, x: Tensor) -> torch.Size:
        return self._along(x, 0, -1 if self.token_first else 1)


class VariationalDropToken1d(VariationalDropout1d):
    """Drop whole tokens, with all their features; 2d and 3d are the same.

    Arguments:
        dropout: as in `VariationalDropout`.
        token_first: inputs are (B, ..., D), not (B, D, ...).
    """

    def _shape(self, x: Tensor) -> torch.Size:
        feature = x.dim() - 1 if self.token_first else 1
        return self._along(x, *(k for k in range(x.dim()) if k != feature))


VariationalDropout2d = VariationalDropout3d = VariationalDropout1d
VariationalDropToken2d = VariationalDropToken3d = VariationalDropToken1d


def reset_dropout(model: nn.Module) -> None:
    """Draw new masks at the next solve.

    Arguments:
        model: its masks are forgotten, in place.
    """
    for module in model.modules():
        if isinstance(module, VariationalDropout):
            module.mask = None
