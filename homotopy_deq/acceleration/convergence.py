"""When each coordinate of an iteration comes to rest, and in how many dimensions it moves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Convergence:
    """When the entries of a state came to rest along a path.

    Arguments:
        steps: for each entry the first step from which it stays within the tolerance of its last
            value, int64 (B, ...).
        length: number of steps of the path.
    """

    steps: Tensor
    length: int

    def moving(self) -> Tensor:
        """Return the share of entries that are not at rest before each step, (length + 1,)."""
        resting = torch.bincount(self.steps.flatten(), minlength=self.length + 1).cumsum(0)
        return 1 - resting.double() / self.steps.numel()


def settled(path: Tensor, tolerance: float) -> Convergence:
    """Return when each entry of a path comes to rest: |z_j - z_T| <= tolerance for all j >= k.

    Arguments:
        path: the states z_0 ... z_T, (T + 1, B, ...); the last is taken for the answer.
        tolerance: absolute, in units of the state.

    Raises:
        ValueError: the tolerance is not above 0.
    """
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0; got {tolerance}.")
    steps = torch.zeros(path.shape[1:], dtype=torch.int64, device=path.device)
    last = path[-1]
    for k, z in enumerate(path):
        steps = torch.where((z - last).abs() <= tolerance, steps, k + 1)
    return Convergence(steps, len(path) - 1)


@dataclass(frozen=True)
class Dimension:
    """In how many dimensions a cloud of states lies.

    Arguments:
        participation: (sum v)^2 / sum v^2 of the variances v along the principal components.
        components: how many of these hold the share that was asked for.
        state: the number of coordinates.
    """

    participation: float
    components: int
    state: int


def dimension(states: Tensor, share: float = 0.99) -> Dimension:
    """Return the effective dimension of states by principal component analysis.

    Arguments:
        states: (..., n), centred here.
        share: of the variance that `components` hold.
    """
    points = states.flatten(0, -2).double()
    points = points - points.mean(0)
    gram = points.mT @ points if points.shape[1] <= len(points) else points @ points.mT
    variances = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0)
    total = variances.sum()
    if float(total) == 0:
        return Dimension(0.0, 0, points.shape[1])
    held = variances.cumsum(0) / total
    return Dimension(
        float(total**2 / variances.square().sum()),
        int((held < share).sum()) + 1,
        points.shape[1],
    )


def displacement(path: Tensor) -> Tensor:
    """Return z_k - z_T of a path (T + 1, B, ...), flat: (T, B, n). What moves, and not where to."""
    return (path[:-1] - path[-1]).flatten(2)
