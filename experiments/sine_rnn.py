"""A recurrent network whose state at each time is an equilibrium, trained to go on with a sine."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from homotopy_deq import Implicit, ImplicitLayer, Picard


class RecurrentCell(nn.Module):
    """f(h; h_before, x) = tanh(W h + V h_before + U x + b)."""

    rowwise: ClassVar[bool] = True

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.recurrent = nn.Linear(hidden, hidden, bias=False)
        self.before = nn.Linear(hidden, hidden, bias=False)
        self.inject = nn.Linear(1, hidden)
        nn.init.normal_(self.recurrent.weight, std=0.8 / math.sqrt(hidden))  # radius 0.8
        nn.init.normal_(self.before.weight, std=0.6 / math.sqrt(hidden))

    def forward(self, h: Tensor, injected: Tensor) -> Tensor:
        return torch.tanh(self.recurrent(h) + injected)


class SineRNN(nn.Module):
    """Predict the next value of a sequence from the equilibrium state at each time."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        picard = Picard(rtol=1e-3, max_steps=30)
        self.layer = ImplicitLayer(
            RecurrentCell(hidden), picard, Implicit(picard), on_failure="ignore"
        )
        self.read = nn.Linear(hidden, 1)

    def injected(self, h: Tensor, x: Tensor) -> Tensor:
        """Return V h + U x + b of the state before and the input, (B, hidden)."""
        cell = self.layer.cell
        out: Tensor = cell.before(h) + cell.inject(x)
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Return the predictions (T, B, 1) for inputs (T, B, 1)."""
        h = x.new_zeros(x.shape[1], self.read.in_features)
        out = []
        for value in x:
            h = self.layer.solve(self.injected(h, value), h).value
            out.append(self.read(h))
        return torch.stack(out)

    @torch.no_grad()
    def states(self, x: Tensor, iterations: int) -> Tensor:
        """Return the states after so many fixed-point iterations at each time, (T, B, hidden)."""
        h = x.new_zeros(x.shape[1], self.read.in_features)
        out = []
        for value in x:
            injected, z = self.injected(h, value), torch.zeros_like(h)
            for _ in range(iterations):
                z = self.layer.cell(z, injected)
            h = z
            out.append(h)
        return torch.stack(out)


def sines(batch: int, length: int, device: str, period: int = 25) -> Tensor:
    """Return sines of random phase, (length + 1, batch, 1)."""
    t = torch.arange(length + 1, device=device)[:, None, None] / period
    return torch.sin(2 * math.pi * (t + torch.rand(batch, 1, device=device)))


def train(net: SineRNN, *, steps: int, device: str, batch: int = 32, length: int = 25) -> float:
    """Train to predict one step ahead; return the last mean squared error."""
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    loss = torch.zeros(())
    for _ in range(steps):
        wave = sines(batch, length, device)
        loss = F.mse_loss(net(wave[:-1]), wave[1:])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return loss.item()
