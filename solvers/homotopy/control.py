"""Step control: how long the next step along a path is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepControl:
    """Halve a sample's step where it failed, double it after easy ones.

    Arguments:
        ds: the first step.
        min_ds: smallest step; by default the square root of the precision, below which points
            of a path can hardly be told apart.
        max_ds: largest step.
        easy: corrector steps up to which a step was easy.
        patience: easy steps in a row before the step doubles.
        turn: a step along an arc is rejected where the tangent turns by more, in radians.

    References:
        E. Allgower, K. Georg (1990), Numerical continuation methods, chapter 6.
    """

    ds: float = 0.1
    min_ds: float | None = None
    max_ds: float = 1.0
    easy: int = 3
    patience: int = 2
    turn: float = math.pi / 6

    def __post_init__(self) -> None:
        if not 0 < (self.min_ds or self.ds) <= self.ds <= self.max_ds:
            raise ValueError(
                "StepControl needs 0 < min_ds <= ds <= max_ds; got "
                f"min_ds={self.min_ds}, ds={self.ds}, max_ds={self.max_ds}."
            )
        if self.easy < 0 or self.patience < 1 or not 0 < self.turn <= math.pi / 2:
            raise ValueError(
                "StepControl needs easy >= 0, patience >= 1 and turn in (0, pi/2]; got "
                f"easy={self.easy}, patience={self.patience}, turn={self.turn}."
            )

    def next(
        self, ds: Tensor, ok: Tensor, effort: Tensor, streak: Tensor, scale: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return each sample's next step, its easy steps in a row, and who failed for good.

        That is who failed and would need a step below the smallest.

        Arguments:
            ds: the step that was tried, (B,).
            ok: whether it succeeded, bool (B,).
            effort: corrector steps that it took, int64 (B,).
            streak: easy steps in a row so far, int64 (B,).
            scale: `max_ds` is a multiple of it; a float or (B,).
        """
        streak = torch.where(ok & (effort <= self.easy), streak + 1, 0)
        double = streak >= self.patience
        longest = torch.as_tensor(self.max_ds * scale).to(ds)
        grown = torch.where(double, torch.minimum(2 * ds, longest), ds)
        least = torch.finfo(ds.dtype).eps ** 0.5 if self.min_ds is None else self.min_ds
        ds = torch.where(ok, grown, 0.5 * ds)
        return ds, torch.where(double, 0, streak), ~ok & (ds < least)
