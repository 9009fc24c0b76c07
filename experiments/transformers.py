"""Language models of one block: its equilibrium, the block repeated, and a stack of blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from homotopy_deq import Anderson, Implicit, ImplicitLayer
from homotopy_deq.cells import AttentionCell
from homotopy_deq.layers import Layer
from solvers import Solver


class Looped(nn.Module):
    """Apply one cell a fixed number of times, from its start, and differentiate through all."""

    def __init__(self, cell: AttentionCell, times: int) -> None:
        super().__init__()
        self.cell = cell
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        condition, z = self.cell.condition(x), self.cell.initial(x)
        for _ in range(self.times):
            z = self.cell(z, *condition)
        return z


class Stacked(nn.Module):
    """Apply cells one after the other, each once, to what the last one made: a transformer."""

    def __init__(self, *cells: AttentionCell) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)

    def forward(self, x: Tensor) -> Tensor:
        for cell in self.cells:
            x = cell(x, *cell.condition(x))
        return x


class LanguageModel(nn.Module):
    """Predict the next character from those before it.

    Arguments:
        alphabet: number V of characters.
        length: most characters in a window.
        channels: number C of channels.
        body: maps (B, T, C) to (B, T, C), causally.
        dropout: probability of dropping a number of the embedding, while training.
    """

    def __init__(
        self, alphabet: int, length: int, channels: int, body: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(alphabet, channels)
        self.place = nn.Embedding(length, channels)
        self.dropout = nn.Dropout(dropout)
        self.body = body
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, alphabet)

    def embedded(self, text: Tensor) -> Tensor:
        """Return the tokens of a text (B, T), (B, T, C)."""
        places = torch.arange(text.shape[1], device=text.device)
        out: Tensor = self.dropout(self.embed(text) + self.place(places))
        return out

    def read(self, z: Tensor) -> Tensor:
        """Return the logits of a state, (B, T, V)."""
        logits: Tensor = self.head(self.norm(z))
        return logits

    def forward(self, text: Tensor) -> Tensor:
        """Return the logits of the characters that follow each of a text's (B, T), (B, T, V)."""
        return self.read(self.body(self.embedded(text)))


def equilibrium(cell: AttentionCell, rtol: float, max_steps: int) -> ImplicitLayer:
    """Return the layer of a cell's equilibrium, as it is trained."""
    solver = Anderson(rtol=rtol, max_steps=max_steps)
    return ImplicitLayer(cell, solver, Implicit(solver), on_failure="ignore")


def swapped(body: Any, solver: Solver[Any, Any]) -> Layer:
    """Return the layer of another solver that shares the one cell of an equilibrium or a loop."""
    layer = body if isinstance(body, Layer) else equilibrium(body.cell, 1e-3, 1)
    return layer.with_solver(solver)


def parameters(model: nn.Module) -> int:
    """Return the number of a model's parameters."""
    return sum(p.numel() for p in model.parameters())


def stacked(
    alphabet: int, length: int, depth: int, heads: int, dropout: float, most: int
) -> LanguageModel:
    """Return a transformer of some depth with nearly, and no more than, so many parameters.

    The widest whose MLPs are as usual 4 times as wide, or wider by what is then left.
    """

    def made(channels: int, hidden: int) -> LanguageModel:
        cells = (
            AttentionCell(channels, heads=heads, hidden=hidden, causal=True, dropout=dropout)
            for _ in range(depth)
        )
        return LanguageModel(alphabet, length, channels, Stacked(*cells), dropout)

    with torch.device("meta"):
        channels = heads
        while parameters(made(channels + heads, 4 * (channels + heads))) <= most:
            channels += heads
        hidden = 4 * channels
        while parameters(made(channels, hidden + 1)) <= most:
            hidden += 1
    return made(channels, hidden)
