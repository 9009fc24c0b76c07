"""Variational dropout: one mask for a whole solve."""

from __future__ import annotations

from torch import Tensor


def check_dropout(p: float) -> float:
    """Return p, or raise ValueError unless it is in [0, 1)."""
    if not 0 <= p < 1:
        raise ValueError(f"dropout must be in [0, 1); got {p}.")
    return p


def dropout_mask(x: Tensor, channels: int, p: float) -> Tensor:
    """Draw a mask that drops whole channels: 0 with probability p, else 1 / (1 - p).

    A cell draws it in `condition`, once per solve. A mask drawn anew at each evaluation would
    change the equation from one step to the next, and there would be no answer to converge to.

    Arguments:
        x: what the cell is conditioned on, (B, ...): gives batch, dtype and device.
        channels: number C of channels of the masked state.
        p: probability of dropping a channel of a sample, in [0, 1).

    Returns:
        (B, C, 1, ...) with the dimensions of x.

    References:
        Y. Gal, Z. Ghahramani (2016), A theoretically grounded application of dropout in
        recurrent neural networks.
    """
    shape = (x.shape[0], channels, *(1,) * (x.dim() - 2))
    return x.new_empty(shape).bernoulli_(1 - p).div_(1 - p)
