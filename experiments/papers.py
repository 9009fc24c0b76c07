"""Run the papers' experiments in short, on data that comes with Python packages: `make papers`.

    python -m experiments.papers [--jobs 2] [--only DeltaDEQ]

Each is a process that writes to runs/papers/COMMIT, and nothing to experiments/results; the same
command goes on where one was stopped. Then prints what the results say of each claim of
`experiments.claims`, by the rules of docs/papers.md: at sizes that are smaller yet. Exits with 1
where an experiment ended without a result, and says where its last words are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.claims import PAPERS, Found
from experiments.results import commit, environment

WORK = "--work {work}"
SHORT = {
    "homoode_links": "homoode_links",
    "start": f"start --epochs 2 --limit 800 {WORK}",
    "augmented": f"augmented --seeds 1 --epochs 3 {WORK}",
    "compare_digits": f"compare --seeds 1 --epochs 4 {WORK}",
    "gradients": f"gradients --device cpu {WORK}",
    "srs": f"srs --dataset digits --images 20 {WORK}",
    "coverage": "coverage",
    "lben_digits": f"lben --preset digits --device cpu {WORK}",
    "flow": f"flow --device cpu --small --minutes 1 {WORK}",
    "inr": f"inr --device cpu --small {WORK}",
    "heterogeneous": f"heterogeneous --device cpu --small {WORK}",
    "delta_speed": f"delta_speed --rounds 3 {WORK}",
    "theory_nngp": f"theory nngp {WORK}",
    "theory_collapse": f"theory collapse {WORK}",
    "gradient_flow": "gradient_flow",
}
"""The results, each with the module and words that make it in short."""


@dataclass(frozen=True)
class Run:
    """A short form that ended.

    Arguments:
        name: of the result.
        seconds: of this call; 0 where the result was there.
        words: the last that it said, if it left no result.
    """

    name: str
    seconds: float
    words: str = ""


def wanted(only: Sequence[str]) -> list[str]:
    """Return the results that bear on the papers that are asked for, on all by default."""
    return [name for name in SHORT if any(
        source.name == name
        for paper in PAPERS if not only or paper.short in only
        for claim in paper.claims for source in claim.sources
    )]  # fmt: skip


def carry_out(name: str, folder: Path) -> Run:
    """Run a short form, unless its result is there."""
    if (folder / f"{name}.json").exists():
        return Run(name, 0.0)
    module, *words = SHORT[name].format(work=folder / "work" / name).split()
    log, since = folder / "work" / f"{name}.txt", time.perf_counter()
    publishing = environment() | {"PUBLISH_TO": str(folder), "OMP_NUM_THREADS": "1"}
    with log.open("a") as told:
        subprocess.run(
            [sys.executable, "-m", f"experiments.{module}", *words],
            env=publishing, stdout=told, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
    seconds = time.perf_counter() - since
    if (folder / f"{name}.json").exists():
        return Run(name, seconds)
    last = log.read_text().strip().splitlines()[-1:] or ["it said nothing"]
    return Run(name, seconds, f"{last[0]} (all of it: {log})")


def said(folder: Path) -> Iterator[tuple[str, str, Found]]:
    """Yield paper, claim and what was found, of each result in a folder."""
    for paper in PAPERS:
        for claim in paper.claims:
            for source in claim.sources:
                file = folder / f"{source.name}.json"
                found = source.read(json.loads(file.read_text())) if file.exists() else None
                if found is not None:
                    yield paper.short, claim.says, found


def main(folder: Path, only: Sequence[str] = (), jobs: int = 2) -> bool:
    """Run what is left, print what was found, and say whether every result is there."""
    console = Console()
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    whole = True
    with ThreadPoolExecutor(jobs) as pool:
        for run in pool.map(lambda name: carry_out(name, folder), wanted(only)):
            how = f"no result. {run.words}" if run.words else f"{run.seconds:.0f} s"
            console.print(f"{run.name}: {how}", highlight=False)
            whole = whole and not run.words
    table = Table(title="At the sizes of this run", show_lines=True)
    for column, ratio in (("paper", 2), ("claim", 4), ("here", 7), ("verdict", 2)):
        table.add_column(column, ratio=ratio)
    for paper, claim, found in said(folder):
        table.add_row(paper, claim, f"{found.figure} ({found.size})", found.verdict)
    console.print(table)
    console.print(f"Results, pictures and words: {folder}", highlight=False)
    return whole


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2, help="experiments at a time, a core each")
    parser.add_argument(
        "--only", nargs="+", default=[], choices=[p.short for p in PAPERS], metavar="PAPER",
        help="these papers: " + ", ".join(p.short for p in PAPERS),
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder; runs/papers/COMMIT by default")
    chosen = parser.parse_args()
    out = (chosen.out or Path("runs/papers") / commit()).resolve()
    sys.exit(0 if main(out, chosen.only, chosen.jobs) else 1)
