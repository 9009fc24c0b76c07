"""The maps that are timed, and how."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from solvers import Equilibrium

BATCH, WIDTH = 64, 256
INPUT = 0.15  # scale of U x: plain iteration then takes about 43 and 75 evaluations


@dataclass(frozen=True)
class Tanh:
    """f(z) = tanh(W z + U x + b) with ||W|| = norm, float32."""

    name: str
    weight: Tensor  # W^T
    drive: Tensor  # U x + b, (B, D)

    @staticmethod
    def make(kind: str, norm: float, device: str = "cpu", seed: int = 0) -> Tanh:
        draw = torch.Generator().manual_seed(seed)
        a = torch.randn(WIDTH, WIDTH, generator=draw)
        w = a @ a.T if kind == "psd" else a
        w = w * (norm / torch.linalg.matrix_norm(w, 2))
        u = torch.randn(WIDTH, WIDTH, generator=draw) / WIDTH**0.5
        b = 0.1 * torch.randn(WIDTH, generator=draw)
        x = torch.randn(BATCH, WIDTH, generator=draw)
        drive = INPUT * (x @ u.T + b)
        return Tanh(f"{kind} {norm}", w.T.contiguous().to(device), drive.to(device))

    def __call__(self, z: Tensor, drive: Tensor | None = None) -> Tensor:
        drive = self.drive if drive is None else drive
        return torch.tanh(torch.addmm(drive, z, self.weight))

    @property
    def problem(self) -> Equilibrium:
        return Equilibrium(self, (self.drive,))

    @property
    def start(self) -> Tensor:
        return torch.zeros_like(self.drive)


class ConvCell(nn.Module):
    """Two 3x3 convolutions on 32 channels of 16x16, scaled to contract: a millisecond or more."""

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        for conv in (self.first, self.second):
            nn.init.orthogonal_(conv.weight)
            conv.weight.data *= 0.9

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.relu(self.first(z) + x)) + x)


def residual(f: Callable[[Tensor], Tensor], z: Tensor) -> float:
    """Return the largest ||f(z) - z|| / ||f(z)|| of the batch, in double precision."""
    with torch.no_grad():
        fz = f(z).double().flatten(1)
        gap = torch.linalg.vector_norm(fz - z.double().flatten(1), dim=1)
        return float((gap / torch.linalg.vector_norm(fz, dim=1)).max())


@dataclass(frozen=True)
class Timing:
    """Milliseconds over the repeats."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def race(entries: dict[str, Callable[[], object]], repeats: int = 30) -> dict[str, Timing]:
    """Time the entries in turn, A B C A B C ..., so that a drift of the machine hits them alike."""
    for _ in range(3):
        for call in entries.values():
            call()
    finish()
    times: dict[str, list[float]] = {name: [] for name in entries}
    for _ in range(repeats):
        for name, call in entries.items():
            begin = time.perf_counter()
            call()
            finish()
            times[name].append(1e3 * (time.perf_counter() - begin))
    return {n: Timing(statistics.median(t), min(t), max(t)) for n, t in times.items()}


def finish() -> None:
    """Wait for what the GPU was given, where there is one at work."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def waits(call: Callable[[], object], device: str) -> dict[str, int]:
    """Count how often a call waits for the GPU, to look at a number; nothing on a CPU."""
    if device == "cpu":
        return {}
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            call()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    told = [str(warning.message) for warning in seen]
    return {"waits for the GPU": sum("synchronizing CUDA operation" in text for text in told)}
