"""Images that packages ship, and a synthesised sound, as functions of their coordinates."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

PHOTOGRAPHS = {"china": "scikit-learn", "flower": "scikit-learn", "hopper": "matplotlib"}
"""Photographs, and the package that ships each."""


def photograph(name: str) -> Tensor:
    """Return a photograph in [0, 1], (3, H, W)."""
    if name == "hopper":
        import matplotlib
        from PIL import Image

        folder = Path(matplotlib.get_data_path()) / "sample_data"
        with Image.open(folder / "grace_hopper.jpg") as image:
            pixels = torch.frombuffer(bytearray(image.convert("RGB").tobytes()), dtype=torch.uint8)
            pixels = pixels.view(image.height, image.width, 3)
    else:
        from sklearn.datasets import load_sample_image

        pixels = torch.tensor(load_sample_image(f"{name}.jpg"))
    return pixels.permute(2, 0, 1).float() / 255


def image(name: str, size: int) -> tuple[Tensor, Tensor]:
    """Return the coordinates (size^2, 2) in [-1, 1] and colours (size^2, 3) of a photograph.

    It is the middle square, averaged down to size x size.
    """
    whole = photograph(name)
    side = min(whole.shape[1:])
    top, left = ((n - side) // 2 for n in whole.shape[1:])
    square = whole[:, top : top + side, left : left + side]
    small = F.interpolate(square[None], (size, size), mode="area")[0]
    line = (torch.arange(size) + 0.5) / size * 2 - 1
    grid = torch.cartesian_prod(line, line)
    return grid, small.flatten(1).T.contiguous()


def sound(samples: int, rate: int = 8000) -> tuple[Tensor, Tensor]:
    """Return the times (samples, 1), scaled to [-1, 1], and a synthesised sound (samples, 1).

    Four plucked strings: each a fundamental with five harmonics that die out the sooner the
    higher they are, with a vibrato of 5 Hz. No recording is shipped by the packages used here.
    """
    t = torch.arange(samples, dtype=torch.float64) / rate
    length, wave = samples / rate, torch.zeros(samples, dtype=torch.float64)
    for k, pitch in enumerate((196.0, 246.9, 293.7, 392.0)):  # G3 B3 D4 G4
        since = (t - k * length / 5).clamp_min(0)
        phase = 2 * math.pi * pitch * since + 0.3 * torch.sin(2 * math.pi * 5 * since)
        for harmonic in range(1, 6):
            fade = torch.exp(-1.5 * harmonic * since / length) / harmonic
            wave += (since > 0) * fade * torch.sin(harmonic * phase)
    wave = wave / wave.abs().max()
    return (t[:, None] / length * 2 - 1).float(), wave[:, None].float()
