"""Rewrite the tables of the pages."""

from __future__ import annotations

from pathlib import Path

from experiments.results import ROOT, bare

from .certifying import certified, coverage, faster, srs
from .collapse import neural_collapse
from .comparing import comparison
from .delta import bounds, cuda, speed
from .families import augmented
from .goals import goals
from .gradients import gradients
from .hardening import faults, lines, mutants
from .language import attention, language
from .lipschitz import checks, lben
from .on_gpu import bench as bench_on_gpu
from .on_gpu import trainings
from .papers import papers
from .porting import zoo
from .scaling import scaling
from .skipping import flow, heterogeneous, inr
from .solving import agreement, bench, conformance, demo, gains, large, porting
from .summary import DIGITS, FASHION, summary
from .training import cifar10, fashion, first_hour, start, step, tutorial
from .wide import nngp

BEGIN, END = "<!-- measured -->", "<!-- /measured -->"


LOADED = " The machine had other work, so seconds compare models only roughly."


def pages() -> dict[Path, str]:
    """Return what stands between the marks of each page."""
    parts = (
        demo(),
        agreement(),
        gains(),
        large(),
        conformance(),
        bench(),
        bench_on_gpu(),
        porting(),
        zoo(),
        fashion(),
        step(),
        gradients(),
        cifar10(),
        trainings(),
        tutorial(),
        augmented(),
        comparison("digits", "the digits", LOADED),
        comparison("fashion-mnist", "Fashion-MNIST", LOADED),
        certified(*DIGITS),
        certified(*FASHION),
        faster(),
        srs(),
        coverage(),
        nngp(),
        bounds(),
        speed(),
        cuda(),
        neural_collapse(),
        checks(),
        lben("lben_small", "Small bounded networks and their equilibria on Fashion-MNIST"),
        heterogeneous(),
        inr(),
        flow(),
        language(),
        attention(),
        lben("lben_cifar10_small", "Small bounded networks and their equilibria on CIFAR-10"),
        lben("lben_fashion_mnist", "Bounded networks and their equilibria on Fashion-MNIST"),
        lben("lben_cifar10", "Bounded networks and their equilibria on CIFAR-10"),
        lben("lben_authors", "An SLL network of the authors' size, fine-tuned as an LBEN"),
        faults(),
        mutants(),
        lines(),
    )
    results = "\n\n".join(filter(None, parts))
    return {
        ROOT / "README.md": summary(),
        ROOT / "docs" / "first-hour.md": first_hour(),
        ROOT / "docs" / "start.md": start(),
        ROOT / "docs" / "results.md": results,
        ROOT / "docs" / "performance.md": "\n\n".join(filter(None, (goals(), scaling()))),
        ROOT / "docs" / "papers.md": papers(results),
    }


def shown(page: Path) -> str:
    """Return what a page has between its marks."""
    return page.read_text().split(BEGIN)[1].split(END)[0].strip()


def main() -> None:
    for page, text in pages().items():
        head, rest = page.read_text().split(BEGIN)
        page.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    bare(__doc__)
    main()
