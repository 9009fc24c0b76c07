"""homotopy-deq certify, homotopy-deq decide"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from rich.table import Table

from ...certification import Probable
from ...certification.journal import SLOPE
from ...certification.summary import Curve, Summary, radii
from ..report import console
from ..trained import Trained
from .options import Certify, Decide
from .proofs import proved
from .study import default_folder
from .votes import Poll
from .work import Finished, Part, work

LATEST = "all samples drawn"


def command(chosen: Certify | Decide) -> None:
    """Certify test images, or decide on one radius for them, and tell what was found."""
    chosen.machine.use()
    todo, title, about = _work(chosen)
    finished = work(todo, **asdict(chosen.begun))
    if finished is None:
        return
    shown = certified_table if isinstance(chosen, Certify) else decided_table
    console.print(shown(f"{chosen.run.path}, {title}", about, finished))
    for each in finished:
        console.print(f"wrote {each.part.journal.folder}", highlight=False, soft_wrap=True)


def _work(chosen: Certify | Decide) -> tuple[Sequence[Part], str, str]:
    """Return what is to be done, its name, and what it is about."""
    run, noise = chosen.run.path, chosen.noise
    if isinstance(chosen, Certify) and chosen.margin and chosen.method != "lipschitz":
        raise ValueError(f"--margin is of --method lipschitz; got --method {chosen.method}.")
    if isinstance(chosen, Certify) and chosen.method != "smoothing":
        folder = chosen.out or default_folder(run, f"certify-{chosen.method}")
        part, prover = proved(chosen, folder)
        margin = part.journal.config.get("margin")
        said = f"method {chosen.method}" + (f", margin {margin}" if margin else "")
        return [part], said, prover.certifies
    radius = chosen.radius if isinstance(chosen, Decide) else None
    poll = Poll.of(
        Trained.of(run),
        chosen.votes,
        chosen.images,
        skip=chosen.skip,
        audit=chosen.votes.audit if isinstance(chosen, Certify) else None,
        cpu=chosen.machine.cpu,
        few=radius is not None,
    )
    exact = {"n0": chosen.n0, "deterministic": chosen.deterministic}
    smoothings = poll.smoothings(noise, chosen.votes.batch, **exact)
    title = f"policy {poll.name}"
    if radius is None:
        poll.policy.check_reach(noise.n, noise.alpha)
        folder = chosen.out or default_folder(run, f"certify-{poll.name}")
        return poll.parts(smoothings, folder, "certify"), title, poll.policy.certifies
    if not poll.policy.anytime:
        raise ValueError(
            f"policy {poll.name} judges all votes together, so sampling cannot stop early: use "
            "--policy verified, converged or truncated."
        )
    for smoothing in smoothings:
        smoothing.check_radius(radius)
    folder = chosen.out or default_folder(run, f"decide-{poll.name}-{radius:g}")
    title = f"{title}, radius {radius:g}"
    return poll.parts(smoothings, folder, "decide", radius), title, poll.policy.certifies


def certified_table(title: str, about: str, finished: Sequence[Finished]) -> Table:
    """Return certified accuracy at some radii, a column each part, and what it is of and cost."""
    sums = [summary(each) for each in finished]
    first = finished[0].part
    smoothing = first.smoothing
    rounded = ", rounded to 1/255 after noise" if smoothing and smoothing.discrete else ""
    units = f"{sums[0].norm} radii, images in [0, 1]{rounded}"
    table = _table(title, finished, f"{units}; about {about}")
    for r, shown in radii(sums):
        table.add_row(
            f"certified at r = {shown}", *(_banded(found.accuracy([r])) for found in sums)
        )
    table.add_section()
    table.add_row("average certified radius", *(f"{found.acr:.3f}" for found in sums))
    table.add_row("abstains", *(f"{found.abstained:.1%}" for found in sums))
    if smoothing:
        table.add_row("undecided votes", *(f"{found.undecided:.2%}" for found in sums))
    table.add_section()
    if smoothing:
        table.add_row("evaluations a sample", *(f"{found.evaluations:.2f}" for found in sums))
    table.add_row("seconds an image", *(f"{found.seconds:.3g}" for found in sums))
    if slope := first.journal.kept(SLOPE):
        table.add_row("slope of a difference of logits, proved", f"{slope['proved']:.3g}")
        table.add_row("  found by search (no certificate)", f"{slope['found']:.3g}")
    return table


def decided_table(title: str, about: str, finished: Sequence[Finished]) -> Table:
    """Return how many images are certified at one radius, a column each sigma, and what it cost."""
    sums = [summary(each) for each in finished]
    claims = [[c.claim for c in each.certificates] for each in finished]
    stops = [[c.stop for c in each if isinstance(c, Probable)] for each in claims]
    table = _table(title, finished, f"about {about}")
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
    said, of = f"{title}: {len(finished[0].certificates):,} images", finished[0].part.smoothing
    said += f", {of.n:,} samples, alpha {of.alpha:g}" if of else ""
    table = Table(title=said, caption=caption, min_width=50)
    table.add_column("")
    for each in finished:
        table.add_column(each.part.name, justify="right")
    return table


def _banded(curve: Curve) -> str:
    """Write the share at a radius with its 95% band, which is of the sample of images."""
    share, low, high = (100 * float(part[0]) for part in (curve.accuracy, curve.low, curve.high))
    return f"{share:.1f}%  ({low:.0f}-{high:.0f})"


def summary(finished: Finished) -> Summary:
    """Sum up what is finished."""
    return Summary.of(finished.certificates, finished.seconds, n0=finished.part.selecting)
