"""The attention cell: a transformer block whose input is injected at every application."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .cell import check_dropout, dropout_mask


class AttentionCell(nn.Module):
    """Map a state and a condition, both T tokens of C channels, to the next state:

        f(z; x) = h + mask * MLP(LN2(h)),   h = x + Attention(LN1(z)).

    At z = x, where a solve starts, this is a transformer block with its normalisations before the
    maps. Iterated it is a looped transformer with x injected at every application, and its
    equilibrium an infinitely deep one of a single block's parameters. The output is bounded
    whatever z is, as LN1 takes out its scale; so there is an equilibrium, and what decides whether
    f contracts to it is the size of Attention(LN1(z)) beside x: LN1's weight starts at `gain`.

    Attention mixes the tokens of one sample and never the samples.

    Arguments:
        channels: number C of channels of z and x, (B, T, C).
        heads: number of attention heads, a divisor of C.
        hidden: width of the MLP; 4 C by default.
        causal: a token attends to itself and those before it alone, so the equilibrium at a token
            does not depend on what follows.
        dropout: probability of dropping a channel of a sample during a solve, while training.
        gain: initial weight of LN1.

    References:
        A. Vaswani et al. (2017), Attention is all you need.
        M. Dehghani et al. (2019), Universal transformers.
        S. Bai, J. Z. Kolter, V. Koltun (2019), Deep equilibrium models.

    Example:
        >>> layer = ImplicitLayer(AttentionCell(32, heads=4, causal=True))
        >>> layer(torch.randn(2, 10, 32)).shape
        torch.Size([2, 10, 32])
    """

    rowwise: ClassVar[bool] = True

    def __init__(
        self,
        channels: int,
        *,
        heads: int = 4,
        hidden: int | None = None,
        causal: bool = False,
        dropout: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        width = 4 * channels if hidden is None else hidden
        if min(channels, heads, width) < 1:
            raise ValueError(
                "channels, heads and hidden must be at least 1; got "
                f"{channels}, {heads} and {width}."
            )
        if channels % heads:
            raise ValueError(
                f"heads must divide channels; got {heads} heads for {channels} channels."
            )
        self.channels = channels
        self.heads = heads
        self.causal = causal
        self.dropout = check_dropout(dropout)
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.widen = nn.Linear(channels, width)
        self.narrow = nn.Linear(width, channels)
        nn.init.constant_(self.norm1.weight, gain)

    def condition(self, x: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Return x and, where there is one, the mask of this solve and which tokens are kept.

        Arguments:
            x: tokens, (B, T, C), or a pair of them and of bool (B, T): False where a token is
                padding, which none but itself attends to and whose state stays x.

        Raises:
            ValueError: a shape is another.
        """
        x, keep = x if isinstance(x, tuple) else (x, None)
        if x.dim() != 3 or x.shape[2] != self.channels:
            raise ValueError(
                f"x must be tokens of {self.channels} channels, (B, T, {self.channels}); got shape "
                f"{tuple(x.shape)}. Embed the tokens first."
            )
        if keep is not None and (keep.dtype != torch.bool or keep.shape != x.shape[:2]):
            raise ValueError(
                f"Which tokens are kept must be bool, {tuple(x.shape[:2])}; got {keep.dtype}, "
                f"{tuple(keep.shape)}. Give True where a token is no padding."
            )
        drops = self.training and self.dropout > 0
        if keep is None and not drops:
            return (x,)
        of_channels = dropout_mask(x.mT, self.channels, self.dropout if drops else 0.0).mT
        return (x, of_channels) if keep is None else (x, of_channels, keep)

    def initial(self, x: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        """Return the tokens, from which the first application is a transformer block."""
        return x[0] if isinstance(x, tuple) else x

    def forward(
        self, z: Tensor, x: Tensor, mask: Tensor | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """Evaluate f(z; x), (B, T, C)."""
        h = x + self.attend(self.norm1(z), keep)
        change: Tensor = self.narrow(F.gelu(self.widen(self.norm2(h))))
        out = h + (change if mask is None else change * mask)
        return out if keep is None else torch.where(keep[..., None], out, x)

    def attend(self, u: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return what each token takes from the tokens that it attends to, (B, T, C)."""
        batch, length, _ = u.shape
        parts = self.qkv(u).view(batch, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind()
        seen = None
        if keep is not None:  # a token sees itself, so that none sees nothing, which is NaN
            seen = keep[:, None] | torch.eye(length, dtype=torch.bool, device=u.device)
            seen = (seen.tril() if self.causal else seen)[:, None]
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, is_causal=self.causal and keep is None
        )
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out
