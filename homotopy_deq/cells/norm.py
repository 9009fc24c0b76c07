"""The normalisation that may stand in a cell: of one sample, never across the batch."""

from __future__ import annotations

from torch import nn


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Return a GroupNorm with as many groups as divide the channels, and at most `groups`.

    A BatchNorm has no place in a cell: its output for one sample depends on the others, so the
    sample's answer would depend on its batch mates and on the step.

    Arguments:
        channels: of what it normalises, 1 or more.
        groups: 1 or more.
    """
    if channels < 1 or groups < 1:
        raise ValueError(f"channels and groups must be at least 1; got {channels} and {groups}.")
    divisors = (g for g in range(min(groups, channels), 0, -1) if channels % g == 0)
    return nn.GroupNorm(next(divisors), channels)
