"""Implicit neural representations whose hidden state is an equilibrium."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homotopy_deq import Implicit, ImplicitLayer, Picard

NORM = 0.95  # ||W||, so that both cells contract: |sin| and |sin'| are at most 1


class Siren(nn.Module):
    """f(z; x) = sin(W z + U x + b) of coordinates x: DEQ-Siren."""

    rowwise: ClassVar[bool] = True

    def __init__(self, inputs: int, hidden: int, frequency: float) -> None:
        super().__init__()
        self.recurrent = nn.Linear(hidden, hidden, bias=False)
        self.inject = nn.Linear(inputs, hidden)
        nn.init.uniform_(self.inject.weight, -frequency, frequency)
        nn.init.uniform_(self.inject.bias, -math.pi, math.pi)

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return U x + b, computed once."""
        return (self.inject(x),)

    def initial(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.recurrent.out_features)

    def forward(self, z: Tensor, injected: Tensor) -> Tensor:
        return torch.sin(self.recurrent(z) + injected)


class Fourier(Siren):
    """f(z; x) = (W z + c) * sin(U x + b), a multiplicative filter network: DEQ-Fourier."""

    rowwise: ClassVar[bool] = True

    def __init__(self, inputs: int, hidden: int, frequency: float) -> None:
        super().__init__(inputs, hidden, frequency)
        self.recurrent = nn.Linear(hidden, hidden)

    def condition(self, x: Tensor) -> tuple[Tensor, ...]:
        return (torch.sin(self.inject(x)),)

    def forward(self, z: Tensor, injected: Tensor) -> Tensor:
        out: Tensor = self.recurrent(z) * injected
        return out


class Representation(nn.Module):
    """Map coordinates (N, d) to values (N, c): an equilibrium state, and a linear read-out.

    References:
        Z. Huang, S. Bai, J. Z. Kolter (2021), (Implicit)^2: implicit layers for implicit
        representations.
    """

    def __init__(self, cell: Siren, channels: int) -> None:
        super().__init__()
        picard = Picard(rtol=1e-3, max_steps=40)
        self.layer = ImplicitLayer(cell, picard, Implicit(picard), on_failure="ignore")
        self.read = nn.Linear(cell.recurrent.out_features, channels)
        nn.init.uniform_(cell.recurrent.weight, -1, 1)
        with torch.no_grad():
            cell.recurrent.weight.mul_(NORM / torch.linalg.matrix_norm(cell.recurrent.weight, 2))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.read(self.layer(x))
        return out


def fit(model: Representation, x: Tensor, y: Tensor, *, steps: int, lr: float) -> None:
    """Train a representation on a signal, with ||W|| held at or below `NORM`.

    A power iteration a step tracks the norm; the singular values settle it at the end.
    """
    weight = model.layer.cell.recurrent.weight
    top = torch.randn_like(weight[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            top = F.normalize(weight.T @ (weight @ top), dim=0)
            weight.mul_((NORM / (weight @ top).norm()).clamp_max(1))
    with torch.no_grad():
        weight.mul_((NORM / torch.linalg.matrix_norm(weight, 2)).clamp_max(1))


def decibel(model: Representation, z: Tensor, y: Tensor) -> float:
    """Return the peak signal-to-noise ratio of the values read from states z (N, n), in dB."""
    with torch.no_grad():
        error = float(F.mse_loss(model.read(z), y))
    peak = float(y.max() - y.min())
    return 10 * math.log10(peak**2 / error)
