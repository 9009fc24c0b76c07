"""The dense cell."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor, nn


class DenseCell(nn.Module):
    """Map a state and a condition to f(z; x) = tanh(W z + U x + b).

    W_ij ~ N(0, gain^2 / n) at the start: the spectral radius of W is then about `gain`, and f is
    a contraction near any state for a gain below 1/2 (||W|| is about 2 gain).

    Arguments:
        inputs: size of x, (B, inputs).
        hidden: size n of z, (B, hidden).
        gain: initial spectral radius of W.
    """

    rowwise: ClassVar[bool] = True

    def __init__(self, inputs: int, hidden: int, *, gain: float = 0.4) -> None:
        super().__init__()
        self.hidden = hidden
        self.recurrent = nn.Linear(hidden, hidden, bias=False)
        self.inject = nn.Linear(inputs, hidden)
        nn.init.normal_(self.recurrent.weight, std=gain / math.sqrt(hidden))

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return x and U x + b, which no step changes."""
        return x, self.inject(x)

    def initial(self, x: Tensor) -> Tensor:
        """Return the state zero, (B, hidden)."""
        return x.new_zeros(x.shape[0], self.hidden)

    def forward(self, z: Tensor, x: Tensor, injected: Tensor | None = None) -> Tensor:
        """Evaluate f(z; x), (B, hidden)."""
        pre: Tensor = self.recurrent(z) + (self.inject(x) if injected is None else injected)
        return pre.tanh()
