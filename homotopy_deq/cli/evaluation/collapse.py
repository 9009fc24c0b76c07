"""The figure of what `train --track neural-collapse` measured."""

from __future__ import annotations

from pathlib import Path

from ... import plotting
from ...training import METRICS, read_metrics

COLLAPSE = "neural-collapse"


def draw_collapse(run: Path, out: Path) -> Path | None:
    """Write collapse.png, or return None where a run's metrics hold no neural collapse."""
    records = [r for r in read_metrics(run / METRICS) if COLLAPSE in r]
    if not records:
        return None
    curve = [{"epoch": record["epoch"], **record[COLLAPSE]} for record in records]
    return plotting.save(plotting.collapse_figure({"train images": curve}), out / "collapse.png")
