"""Optical flow as it was estimated before networks: what a trained one must beat."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def lucas_kanade(
    views: Tensor, *, levels: int = 3, window: int = 11, steps: int = 5, ridge: float = 1e-4
) -> Tensor:
    """Return the flow between two views (B, 6, H, W), in pixels, (B, 2, H, W).

    From coarse to fine, at each pixel the least-squares solution w <- w + d over a window of

        I_x d_x + I_y d_y = first(p) - second(p + w),    I_x, I_y the slopes of second(p + w),

    with a ridge, and each w the mean over a window, as textureless places take it from around.

    Arguments:
        levels: of the pyramid, each half as wide as the one before.
        window: pixels a side.
        steps: of each level.
        ridge: of the squared slopes of colours in [0, 1].

    References:
        B. Lucas, T. Kanade (1981). J.-Y. Bouguet (2001), pyramidal implementation.
    """
    pyramid = [views]
    for _ in range(levels - 1):
        pyramid.append(F.avg_pool2d(pyramid[-1], 2))
    w = torch.zeros_like(pyramid[-1][:, :2])
    for level in reversed(pyramid):
        if w.shape[2:] != level.shape[2:]:
            w = 2 * F.interpolate(w, level.shape[2:], mode="bilinear")
        first, second = level.chunk(2, 1)
        for _ in range(steps):
            seen = seen_along(second, w)
            dy, dx = torch.gradient(seen, dim=(2, 3))
            missing = first - seen
            xx, xy, yy, x, y = (
                _mean((a * b).mean(1, keepdim=True), window)
                for a, b in ((dx, dx), (dx, dy), (dy, dy), (dx, missing), (dy, missing))
            )
            xx, yy = xx + ridge, yy + ridge
            d = torch.cat([yy * x - xy * y, xx * y - xy * x], 1) / (xx * yy - xy * xy)
            w = _mean(w + d.clamp(-1, 1), 5)
    return w


def seen_along(view: Tensor, w: Tensor) -> Tensor:
    """Return a view (B, n, H, W) at p + w for each pixel p."""
    height, width = view.shape[2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=w.device), torch.arange(width, device=w.device), indexing="ij"
    )
    at = w + torch.stack([x, y])
    grid = 2 * at.permute(0, 2, 3, 1) / at.new_tensor([width - 1, height - 1]) - 1
    return F.grid_sample(view, grid, "bilinear", "border", align_corners=True)


def _mean(x: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(x, window, 1, window // 2, count_include_pad=False)
