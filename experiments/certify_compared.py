"""What follows from the answers of the two versions that `experiments.certify_speed` asks."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

CHANCE = 1e-3
"""Votes of an image differ by more than chance below this, shared by all images (Fisher)."""


def told(calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what some calls cost an image, and what they found."""
    found = [c for call in calls for c in call["certificates"]]
    return {
        "seconds an image": sum(call["seconds"] for call in calls) / len(found),
        "CPU seconds an image": sum(call["CPU seconds"] for call in calls) / len(found),
        "seconds of each call": [call["seconds"] for call in calls],
        "evaluations an image": sum(c["evaluations"] for c in found) / len(found),
        "samples an image": sum(c["samples"] for c in found) / len(found),
        "certificates": found,
    }


def ratio(runs: dict[str, Any], which: str) -> dict[str, Any]:
    """Return how many times faster a run is than the cold one: of seconds, and call by call."""
    cold, now = runs["cold, before"], runs[which]
    names = "seconds of each call"
    each = [a / b for a, b in zip(cold[names], now[names], strict=True)]
    return {
        "wall": cold["seconds an image"] / now["seconds an image"],
        "CPU": cold["CPU seconds an image"] / now["CPU seconds an image"],
        "median": statistics.median(each),
        "low": min(each),
        "high": max(each),
    }


def agreement(cold: list[dict[str, Any]], now: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare certificates of the same images under other noise.

    Where one abstains both may have selected another class, and their votes are of two classes.
    """
    from scipy.stats import fisher_exact

    pairs = list(zip(cold, now, strict=True))
    chance = [
        float(fisher_exact([[c["votes"], c["samples"] - c["votes"]] for c in pair]).pvalue)
        for pair in pairs
        if min(c["class"] for c in pair) >= 0
    ]
    return {
        "images": len(pairs),
        "neither abstains": len(chance),
        "same class": sum(a["class"] == b["class"] for a, b in pairs),
        "radius differs by at most": max(abs(a["radius"] - b["radius"]) for a, b in pairs),
        "votes beyond chance": sum(p < CHANCE / len(pairs) for p in chance),
    }


def verdicts(cold: list[dict[str, Any]], *now: list[dict[str, Any]]) -> dict[str, Any]:
    """Count how many images each decides the same way, certified or not."""
    return {
        "images": len(cold),
        "certified cold": sum(c["radius"] > 0 for c in cold),
        "as cold, same n0 and now": [
            sum(a["class"] == b["class"] for a, b in zip(cold, each, strict=True)) for each in now
        ],
    }


def verdict(rows: dict[str, Any]) -> dict[str, Any]:
    """Say in how many configurations certification is 4 and 2.5 times as fast, and decisions 5."""
    whole, asked = (
        [row["faster"][k]["CPU"] for row in rows.values()] for k in ("radius", "decide")
    )
    limits = [
        row["radius"]["cold, before"]["CPU seconds an image"] / row["limit, CPU seconds an image"]
        for row in rows.values()
    ]
    return {
        "configurations": len(rows),
        "radius, at least 4 times": sum(each >= 4 for each in whole),
        "radius, least": min(whole),
        "radius, at the limit": [min(limits), max(limits)],
        "decide, at least 5 times": sum(each >= 5 for each in asked),
        "decide, least": min(asked),
    }
