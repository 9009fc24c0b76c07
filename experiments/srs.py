"""Print the table of Serialized Randomized Smoothing beside ours, and what differs.

    python -m experiments.srs --dataset digits
    python -m experiments.srs --dataset fashion-mnist --data DIR

Uses the contractive DEQ of `experiments/certify.py` (sigma 0.5, trained there if it is missing)
and certifies the same images by full solves, by the paper's rule with 3 and 1 steps, which is NOT
SOUND and gives no certificates, and by the sound policies that take its place.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.certify import MODELS, Config, config_of, run, sampled, train
from experiments.kept import made
from experiments.results import Record
from homotopy_deq.certification import Journal
from homotopy_deq.certification.journal import ESTIMATES
from homotopy_deq.certification.summary import Summary

SIGMA = 0.5
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
# Gao, Hou, Xu & Liu (2024): CIFAR-10, MDEQ-LARGE, sigma 0.5; certified accuracy in percent at
# RADII, and seconds an image.
PAPER = {
    "full solve (30 Anderson steps)": ((67, 55, 45, 33, 23, 16, 12), 12.89),
    "SRS-3": ((66, 54, 45, 33, 23, 16, 11), 2.55),
    "SRS-1": ((63, 53, 45, 32, 22, 16, 12), 1.79),
}
OURS = {
    "full solve (Anderson to 1e-4)": "--policy converged --warm-start none",
    "SRS-3, the paper's rule: NOT SOUND": "--policy srs-paper --steps 3",
    "SRS-1, the paper's rule: NOT SOUND": "--policy srs-paper --steps 1",
    "serial, 3 steps, random audit": "--policy audited --warm-start serial --steps 3",
    "verified votes, tangent start": "--policy verified --warm-start tangent",
}
DIFFERS = (
    "data: {dataset}, not CIFAR-10; one grey channel",
    "model: a contractive DEQ with {hidden} channels or numbers, not MDEQ-LARGE; {epochs} epochs",
    "{images} test images, not 10,000; one CPU thread, not a GPU",
    "full solve: Anderson until each sample's relative residual is 1e-4, not 30 steps for all",
    "the last two rows are sound; what the paper's rule prints is not certified",
)


def main(config: Config) -> None:
    """Run what is missing, print both tables, write experiments/results/srs.json."""
    torch.set_num_threads(config.threads)  # of the runs, which are processes of their own
    console, record = Console(), Record("srs", config)
    folder = config.work / f"{config.dataset}-deq-{SIGMA:g}"
    train(config, folder, MODELS["deq"], SIGMA)
    ours: dict[str, Any] = {}
    for k, (name, words) in enumerate(OURS.items()):
        out = folder / f"srs-{k}"
        solver = "" if "verified" in words else " --solver anderson"
        summary = figures(config, folder, out, words + solver)
        ours[name] = {
            "accuracy at radii": [100 * float(a) for a in summary.accuracy(RADII).accuracy],
            "seconds an image": summary.seconds,
            "evaluations a sample": summary.evaluations,
        }
    differs = [
        line.format(
            dataset=config.dataset,
            hidden=config.hidden,
            epochs=config.epochs,
            images=config.images,
        )
        for line in DIFFERS
    ]
    full = next(iter(ours.values()))["seconds an image"]
    table = Table(title="certified accuracy (%) at l2 radius, sigma 0.5")
    for column in ("", *(f"{r:g}" for r in RADII), "s an image", "speed-up", "evaluations"):
        table.add_column(column, justify="left" if not column else "right")
    for name, (percent, seconds) in PAPER.items():
        faster = PAPER["full solve (30 Anderson steps)"][1] / seconds
        cells = [*map(str, percent), f"{seconds:.2f}", f"{faster:.1f}x", ""]
        table.add_row(f"paper: {name}", *cells)
    table.add_section()
    for name, row in ours.items():
        cells = [f"{a:.0f}" for a in row["accuracy at radii"]]
        cells += [f"{row['seconds an image']:.2f}", f"{full / row['seconds an image']:.1f}x"]
        table.add_row(f"ours: {name}", *cells, f"{row['evaluations a sample']:.2f}")
    console.print(table)
    for line in differs:
        console.print(f"  differs: {line}", highlight=False)
    paper = {n: {"accuracy at radii": a, "seconds an image": s} for n, (a, s) in PAPER.items()}
    result = {"radii": RADII, "paper": paper, "ours": ours, "differs": differs}
    work = made([folder, *(folder / f"srs-{k}" for k in range(len(OURS)))])
    console.print(f"Written to {record.write(result, started=work.started, seconds=work.seconds)}")


def figures(config: Config, folder: Path, out: Path, words: str) -> Summary:
    """Return a run's figures; those of the paper's rule are read from its journal."""
    command = ["certify", *words.split()]
    if "srs-paper" not in words:
        return sampled(config, folder, out, command, SIGMA).summary
    if not (out / ESTIMATES).exists():
        run(config, folder, out, command, SIGMA)
    done = Journal.open(out).done()
    seconds = {index: spent for index, (_, spent) in done.items()}
    return Summary.of([each for each, _ in done.values()], seconds, n0=100)


if __name__ == "__main__":
    main(replace(config_of(__doc__), sigmas=(SIGMA,)))
