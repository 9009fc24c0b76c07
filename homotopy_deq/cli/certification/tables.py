"""The tables at the end of a certification."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from rich.table import Table

from ...certification import Policy, Probable
from ...certification.summary import Curve, Summary, grid
from .sampling import Finished

LATEST = "all samples drawn"


def certified_table(title: str, policy: Policy, finished: Sequence[Finished]) -> Table:
    """Return certified accuracy at some radii, a column each sigma, and what it is of and cost."""
    sums = [summary(each) for each in finished]
    rounded = ", rounded to 1/255 after noise" if finished[0].smoothing.discrete else ""
    units = f"l2 radii, images in [0, 1]{rounded}"
    table = _table(title, finished, f"{units}; about {policy.certifies}")
    for r in grid(max(each.reach for each in sums)):
        curves = [found.accuracy([r]) for found in sums]
        table.add_row(f"certified at r = {r:g}", *map(_banded, curves))
    table.add_section()
    table.add_row("average certified radius", *(f"{found.acr:.3f}" for found in sums))
    table.add_row("abstains", *(f"{found.abstained:.1%}" for found in sums))
    table.add_row("undecided votes", *(f"{found.undecided:.2%}" for found in sums))
    table.add_section()
    table.add_row("evaluations a sample", *(f"{found.evaluations:.2f}" for found in sums))
    table.add_row("seconds an image", *(f"{found.seconds:.3g}" for found in sums))
    return table


def decided_table(title: str, policy: Policy, finished: Sequence[Finished]) -> Table:
    """Return how many images are certified at one radius, a column each sigma, and what it cost."""
    sums = [summary(each) for each in finished]
    claims = [[c.claim for c in each.certificates] for each in finished]
    stops = [[c.stop for c in each if isinstance(c, Probable)] for each in claims]
    table = _table(title, finished, f"about {policy.certifies}")
    for name, stop in (("certified", "certified"), ("futile", "futile"), ("undecided", LATEST)):
        table.add_row(name, *(f"{each.count(stop) / len(each):.1%}" for each in stops))
        if stop == "certified":
            curves = [found.accuracy([0.0]) for found in sums]
            table.add_row("  of the true class", *map(_banded, curves))
    table.add_section()
    table.add_row("samples an image", *(f"{found.samples:,.0f}" for found in sums))
    middle = [median(c.evidence.samples for c in each.certificates) for each in finished]
    table.add_row("  median", *(f"{count:,.0f}" for count in middle))
    table.add_row("evaluations an image", *(f"{found.per_image:,.0f}" for found in sums))
    table.add_row("seconds an image", *(f"{found.seconds:.3g}" for found in sums))
    return table


def _table(title: str, finished: Sequence[Finished], caption: str) -> Table:
    smoothing, count = finished[0].smoothing, len(finished[0].certificates)
    said = f"{title}: {count:,} images, {smoothing.n:,} samples, alpha {smoothing.alpha:g}"
    table = Table(title=said, caption=caption, min_width=50)
    table.add_column("")
    for each in finished:
        table.add_column(f"sigma {each.smoothing.sigma:g}", justify="right")
    return table


def _banded(curve: Curve) -> str:
    """Write the share at a radius with its 95% band, which is of the sample of images."""
    share, low, high = (100 * float(part[0]) for part in (curve.accuracy, curve.low, curve.high))
    return f"{share:.1f}%  ({low:.0f}-{high:.0f})"


def summary(finished: Finished) -> Summary:
    """Sum up what is finished."""
    return Summary.of(finished.certificates, finished.seconds, n0=finished.smoothing.n0)
