"""Pairs and sequences of views of real photographs, between which the optical flow is known.

A view at time t shows the photograph I through a smooth map: frame_t(p) = I(A(p + d_t(p))), p in
pixels. The flow w from frame s to frame t is then exact, beyond the border too:
p + w + d_t(p + w) = p + d_s(p).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

KNOTS = 4  # a side of the grid that smooth random displacements are interpolated on
PERIOD = 24  # frames in which a view swings to and fro


@dataclass(frozen=True)
class Motion:
    """Smooth maps of the plane, one a sample: an affine part and a smooth random one.

    Arguments:
        affine: (B, 2, 3): d(p) = M (p - centre) + shift, in pixels.
        knots: (B, 2, K, K), displacements in pixels on a grid over the view, cubic in between.
    """

    affine: Tensor
    knots: Tensor

    def __call__(self, p: Tensor) -> Tensor:
        """Return d(p), (B, 2, H, W), of pixels p (B, 2, H, W), centred and scaled to [-1, 1]."""
        linear = torch.einsum("bij,bjhw->bihw", self.affine[:, :, :2], p)
        smooth = F.grid_sample(
            self.knots, p.permute(0, 2, 3, 1), "bicubic", "border", align_corners=True
        )
        return linear + self.affine[:, :, 2, None, None] + smooth


def drawn(batch: int, reach: float, device: str) -> Motion:
    """Draw motions of up to about `reach` pixels on a view, of some samples far less."""
    affine = torch.randn(batch, 2, 3, device=device)
    affine[:, :, :2] *= 0.2 * reach  # of p in [-1, 1]
    affine[:, :, 2] *= 0.5 * reach
    knots = torch.randn(batch, 2, KNOTS, KNOTS, device=device) * 0.35 * reach
    scale = torch.rand(batch, 1, 1, device=device)
    return Motion(scale * affine, scale[..., None] * knots)


def pixels(batch: int, size: int, device: str) -> Tensor:
    """Return the pixels of a view, scaled to [-1, 1], x first, (B, 2, size, size)."""
    line = torch.linspace(-1, 1, size, device=device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x, y]).expand(batch, 2, size, size)


@dataclass(frozen=True)
class Camera:
    """Where each sample looks: a turned, zoomed square of a photograph.

    Arguments:
        photograph: (3, H, W).
        centre: (B, 2) and `turn` (B, 2, 2), in pixels of the photograph.
    """

    photograph: Tensor
    centre: Tensor
    turn: Tensor
    size: int

    def view(self, p: Tensor, d: Tensor) -> Tensor:
        """Return what is seen at p + d, (B, 3, H, W); p in [-1, 1], d in pixels of the view."""
        half = (self.size - 1) / 2
        at = torch.einsum("bij,bjhw->bihw", self.turn, half * p + d) + self.centre[:, :, None, None]
        extent = at.new_tensor([self.photograph.shape[2] - 1, self.photograph.shape[1] - 1])
        grid = (2 * at / extent[:, None, None] - 1).permute(0, 2, 3, 1)
        whole = self.photograph.expand(len(at), -1, -1, -1)
        return F.grid_sample(whole, grid, "bilinear", "reflection", align_corners=True)


def cameras(photograph: Tensor, batch: int, size: int) -> Camera:
    """Draw places of a photograph, with turns of any angle, mirrored or not, zoomed by 1 to 2."""
    device = photograph.device
    angle = torch.rand(batch, device=device) * 2 * torch.pi
    zoom = 1 + torch.rand(batch, device=device)
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    flip = 1 - 2 * torch.randint(2, (batch,), device=device)
    turn = torch.stack([cos, -sin * flip, sin, cos * flip], 1).view(batch, 2, 2)
    extent = torch.tensor([photograph.shape[2], photograph.shape[1]], device=device)
    margin = 0.6 * size
    centre = margin + torch.rand(batch, 2, device=device) * (extent - 2 * margin)
    return Camera(photograph, centre, turn, size)


def flow(p: Tensor, one: Tensor, other: Motion, size: int, steps: int = 30) -> Tensor:
    """Return w in pixels with w + d'(p + w) = d(p): a fixed-point equation, as d' varies slowly."""
    half = (size - 1) / 2
    w = one - other(p)
    for _ in range(steps):
        w = one - other(p + w / half)
    return w


def pairs(photograph: Tensor, batch: int, size: int, reach: float) -> tuple[Tensor, Tensor]:
    """Return pairs of views (B, 6, size, size) and the flow of each, (B, 2, size, size)."""
    device = str(photograph.device)
    p = pixels(batch, size, device)
    still, moved = torch.zeros_like(p), drawn(batch, reach, device)
    camera = cameras(photograph, batch, size)
    first, second = camera.view(p, moved(p)), camera.view(p, still)
    return torch.cat([first, second], 1), moved(p)


def sequence(
    photograph: Tensor, batch: int, size: int, reach: float, frames: int, *, local: bool
) -> list[tuple[Tensor, Tensor]]:
    """Return consecutive pairs of moving views, as `pairs` does, one a step in time.

    Arguments:
        local: a still camera, before which one part of the view swings; else all of it drifts.
    """
    device = str(photograph.device)
    p = pixels(batch, size, device)
    camera, motion = cameras(photograph, batch, size), drawn(batch, reach, device)
    drift = torch.zeros_like(motion.affine)
    if local:
        knots = torch.zeros_like(motion.knots)
        knots[:, :, 1:3, 1:3] = motion.knots[:, :, 1:3, 1:3]
        motion = Motion(torch.zeros_like(drift), knots)
    else:
        drift[:, :, 2] = motion.affine[:, :, 2]

    def at(t: float) -> Motion:
        swing = math.sin(2 * math.pi * t / PERIOD) * PERIOD / (2 * math.pi)
        return Motion(swing * (motion.affine - drift) + t * drift, swing * motion.knots)

    found = []
    for t in range(frames):
        here, there = at(float(t)), at(float(t + 1))
        views = [camera.view(p, m(p)) for m in (here, there)]
        found.append((torch.cat(views, 1), flow(p, here(p), there, size)))
    return found
