"""homotopy-deq report"""

from __future__ import annotations

from collections.abc import Sequence

from ...certification.summary import compare, radii
from ...training.checkpoint import replace_file
from ..report import console
from .options import Report
from .runs import CertifiedRun, called, open_runs

DASH = "–"


def command(chosen: Report) -> None:
    """Print the table of certification runs."""
    against, out = chosen.against, chosen.out
    runs = open_runs(chosen.folders, unfinished=True)
    cold = {} if against is None else {run.sigma: run for run in open_runs([against])}
    text = table(runs, cold)
    if out is not None:
        replace_file(out, text.encode())
    print(text, end="")
    if out is not None:
        console.print(f"wrote {out}", highlight=False)


def table(runs: Sequence[CertifiedRun], cold: dict[float, CertifiedRun]) -> str:
    """Return the Markdown table.

    Arguments:
        runs: the rows.
        cold: the run to compare with, by sigma; none for no comparison.

    Raises:
        ValueError: there is no run to compare one with, or it is of other images or weights.
    """
    if cold and not any(run.sigma in cold for run in runs):
        given = ", ".join(f"{sigma:g}" for sigma in cold)
        raise ValueError(
            f"--against holds sigma {given}, and no run to compare has it: give a run of the same "
            "noise."
        )
    at = radii([run.summary for run in runs])
    head = [
        "run",
        "images",
        *(f"r = {shown}" for _, shown in at),
        "ACR",
        "abstains",
        "undecided votes",
    ]
    head += ["samples/image", "evaluations/sample", "s/image"]
    if cold:
        head += ["faster", "fewer evaluations", "largest difference"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    names = called(runs)
    for name, run in zip(names, runs, strict=True):
        rows.append(_row(name, run, [r for r, _ in at]) + (_beside(run, cold) if cold else []))
    notes = [
        f"{name}: {found}" for name, run in zip(names, runs, strict=True) for found in run.remarks
    ]
    lines = [f"| {' | '.join(row)} |\n" for row in rows]
    return "".join(lines) + "".join(f"\n{note}.\n" for note in notes)


def _row(name: str, run: CertifiedRun, radii: Sequence[float]) -> list[str]:
    found, asked = run.summary, run.asked
    shares = [f"{100 * share:.1f}" for share in found.accuracy(radii).accuracy]
    if asked is not None:  # nothing is known of larger radii, nor of smaller ones where futile
        shares = [text if r == asked else DASH for r, text in zip(radii, shares, strict=True)]
    left = f", UNFINISHED: {found.images} of {run.planned} images"
    name += left * (found.images < run.planned)
    name = name if asked is None else f"{name}, decided at {asked:g}"
    if asked is not None and asked not in radii:
        (share,) = found.accuracy([asked]).accuracy
        name += f": {100 * share:.1f}"
    sampled = [f"{found.undecided:.2%}", f"{found.samples:,.0f}", f"{found.evaluations:.2f}"]
    return [
        name,
        f"{found.images:,}",
        *shares,
        f"{found.acr:.3f}" if asked is None else DASH,
        f"{found.abstained:.1%}",
        *([DASH] * 3 if run.proved else sampled),
        f"{found.seconds:.3g}",
    ]


def _beside(run: CertifiedRun, cold: dict[float, CertifiedRun]) -> list[str]:
    other = cold.get(run.sigma)
    if other is None or run.summary.images < run.planned:
        return [DASH] * 3
    if not run.same_model(other):
        raise ValueError(
            f"{run.folder} and {other.folder} are not of the same weights and test images: their "
            "difference says nothing of the policy. Leave --against out to see them side by side."
        )
    found = compare(run.summary, other.summary)
    gap = f"{100 * found.difference:+.1f} at r = {found.at:.3g}" if found.difference else "none"
    return [
        f"{found.time:.2f}x",
        f"{found.evaluations:.2f}x",
        DASH if run.asked is not None or other.asked is not None else gap,
    ]
