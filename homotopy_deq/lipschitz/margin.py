"""Radii within which a network's class is proved not to change, from its logits' margins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from ..cells.bounds import SLACK, UNIT
from .enclosure import Enclosure, norms
from .linear import NormalizedLinear
from .network import ROUND, copied_modules, norm_bound
from .pairs import Margin, pair_gains
from .vanilla import to_vanilla

FIRST, LAST = 1e-10, 1e-12
"""Relative residuals that equilibria are solved to, the second where the first costs too much."""
SHARE = 2.5e-7
"""Of a margin, what its equilibria's error may take before they are solved to the second."""
VOTES = (1e-4, 1e-6, FIRST, LAST)
"""Where only the class is wanted: each where the one before leaves it open."""
LOST = 1e-150
"""Above what the squares of a row's entries lose where they underflow."""


@dataclass(frozen=True)
class Margins:
    """What is proved of a batch of images, deterministically, for the map in exact arithmetic.

    Arguments:
        prediction: the class, int64 (B,); -1 where the error of the logits leaves it open.
        radius: no image nearer than this (2-norm) has another class, float64 (B,); rounded down.
        logits: in double precision, (B, K).
        slack: how far they may be from those of exact arithmetic, solver and rounding together,
            (B,), in the 2-norm of what the last linear map reads.
        rival: the class that decides the radius, int64 (B,).
        margin: of the largest logit before the rival's, all slack taken off, (B,).
        gain: a Lipschitz constant of that difference, (B,), above 0.
    """

    prediction: Tensor
    radius: Tensor
    logits: Tensor
    slack: Tensor
    rival: Tensor
    margin: Tensor
    gain: Tensor


def certify_margins(network: nn.Module, images: Tensor, margin: Margin = Margin.GLOBAL) -> Margins:
    """Prove a radius for each image of a batch, see `MarginProof`, which is for many batches.

    Arguments:
        network: as in `MarginProof`.
        images: (B, ...).
        margin: as in `MarginProof`.
    """
    return MarginProof(network, margin)(images)


class MarginProof:
    """Prove a radius for each image by the Lipschitz constant and the margins of the logits:

        r = min_j (f_y - f_j - slack_yj) / (gamma ||w_y - w_j||),

    gamma that of all before the last linear map, whose rows are w; where the network does not end
    in a Linear, w are unit vectors, which gives the well-known (f_y - max_j f_j) / (sqrt2 gamma).
    `Margin` says what stands for gamma ||w_y - w_j|| where it is smaller. What is proved of the
    weights is proved once, of a copy.

    Arguments:
        network: as in `certify_lipschitz`. It is evaluated in double precision.
        margin: how the slope of a difference of logits is bounded.

    Raises:
        ImportError, ValueError: the network cannot be certified, see `certify_lipschitz`, or not by
            this margin, see `pair_gains`.
    """

    def __init__(self, network: nn.Module, margin: Margin = Margin.GLOBAL) -> None:
        parts = copied_modules(network)
        if parts and type(parts[-1][1]) is NormalizedLinear:
            parts[-1] = parts[-1][0], to_vanilla(parts[-1][1])
        head = parts.pop()[1] if parts and type(parts[-1][1]) is nn.Linear else None
        body = nn.Sequential()
        body._modules.update(parts)  # names of parts within parts have dots
        self.body = Enclosure(body)
        self.head: nn.Linear | None = head  # type: ignore[assignment]
        last = None if self.head is None else self.head.weight.detach()
        self.pairs = pair_gains(parts, last, margin)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Margins:
        """Prove a radius for each of the images, (B, ...), on the network's device."""
        return self._until(images, (FIRST, LAST), SHARE)

    @torch.no_grad()
    def classes(self, images: Tensor) -> Tensor:
        """Return the class of each of the images, int64 (B,); -1 where it stays open.

        It is proved as by a call, whose radii cost several times as much.
        """
        return self._until(images, VOTES, 0.9).prediction

    def _until(self, images: Tensor, tolerances: Sequence[float], share: float) -> Margins:
        """Solve to each tolerance in turn what the slack takes a larger share of the margin of."""
        found, lost = self._proved(images, tolerances[0])
        for rtol in tolerances[1:]:
            (left,) = torch.nonzero(~(lost <= share), as_tuple=True)
            if not (self.body.solves and len(left)):
                break
            again, less = self._proved(images[left], rtol)
            lost = lost.index_copy(0, left, less)
            found = Margins(*(
                getattr(found, each.name).index_copy(0, left, getattr(again, each.name))
                for each in fields(Margins)
            ))  # fmt: skip
        return found

    def _proved(self, images: Tensor, rtol: float) -> tuple[Margins, Tensor]:
        """Return what is proved, and the share of the margins that the slack takes, (B,)."""
        y, slack = self.body(images, rtol)
        if y.dim() != 2:
            raise ValueError(f"logits (B, K) are wanted of a network; got {tuple(y.shape)}.")
        if self.head is None:
            weight = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
            logits = y
        else:
            weight, logits = self.head.weight.detach(), self.head(y)
        prediction = logits.argmax(1)
        unit = SLACK * (weight.shape[1] + 4) * UNIT
        apart = torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")
        distance = (apart * (1 + unit) + LOST)[prediction]  # (B, K)
        rounding = unit * (norm_bound(weight) * norms(y) + logits.abs().amax(1))
        margin = logits.gather(1, prediction[:, None]) - logits
        taken = distance * slack[:, None]
        share = taken / margin
        margin = margin - taken - 2 * rounding[:, None]
        own = torch.zeros_like(margin, dtype=torch.bool).scatter_(1, prediction[:, None], True)
        # Two classes with one row of weights keep their order at any distance, 1e150 with LOST.
        gain = self.body.gamma * distance * ROUND
        if self.pairs is not None:
            gain = torch.minimum(gain, self.pairs.to(gain.device)[prediction])
        gain = gain.clamp_min(torch.finfo(margin.dtype).tiny)
        radius, rival = (margin / gain).nan_to_num(nan=-1.0).masked_fill(own, math.inf).min(1)
        radius = (radius / ROUND).clamp_max(torch.finfo(radius.dtype).max)
        open_ = ~(radius > 0)
        nearest = rival[:, None]
        found = Margins(
            prediction.masked_fill(open_, -1),
            radius.masked_fill(open_, 0.0),
            logits,
            slack,
            rival,
            margin.gather(1, nearest)[:, 0],
            gain.gather(1, nearest)[:, 0],
        )
        return found, share.gather(1, nearest)[:, 0]
