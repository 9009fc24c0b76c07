"""Print the table of Serialized Randomized Smoothing beside ours, and what differs.

    python -m experiments.srs --dataset digits
    python -m experiments.srs --dataset fashion-mnist --data DIR

Uses the contractive DEQ of `experiments/certify.py` (sigma 0.5, trained there if it is missing)
and certifies the same images by full solves, by the paper's rule with 3 and 1 steps, which is NOT
SOUND and gives no certificates, and by the sound policies that take its place.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.certify import MODELS, Config, config_of, sampled, train
from experiments.kept import made, making
from experiments.results import Record
from experiments.rules import PaperTally, SrsPaper
from homotopy_deq.certification import Certificate, Probable, Smoother, Smoothing
from homotopy_deq.certification.summary import Summary
from homotopy_deq.cli import load_model
from homotopy_deq.data import load, stratified_order

SIGMA = 0.5
RADII = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
# Gao, Hou, Xu & Liu (2024): CIFAR-10, MDEQ-LARGE, sigma 0.5; certified accuracy in percent at
# RADII, and seconds an image.
PAPER = {
    "full solve (30 Anderson steps)": ((67, 55, 45, 33, 23, 16, 12), 12.89),
    "SRS-3": ((66, 54, 45, 33, 23, 16, 11), 2.55),
    "SRS-1": ((63, 53, 45, 32, 22, 16, 12), 1.79),
}
OURS: dict[str, str | int] = {  # of the paper's rule, the steps
    "full solve (Anderson to 1e-4)": "--policy converged --warm-start none",
    "SRS-3, the paper's rule: NOT SOUND": 3,
    "SRS-1, the paper's rule: NOT SOUND": 1,
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
    for k, (name, how) in enumerate(OURS.items()):
        out = folder / f"srs-{k}"
        figures = paper_rule if isinstance(how, int) else sound
        summary = figures(config, folder, out, how)
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


def sound(config: Config, folder: Path, out: Path, words: Any) -> Summary:
    """Return the figures of a run of certify."""
    solver = "" if "verified" in words else " --solver anderson"
    return sampled(config, folder, out, f"certify {words}{solver}".split(), SIGMA).summary


def paper_rule(config: Config, folder: Path, out: Path, steps: Any) -> Summary:
    """Return the figures of the paper's rule on the same images and noise, kept once they are."""
    smoothing = Smoothing(SIGMA, n=config.samples, batch=config.batch)
    file = out / "estimates.json"
    if not file.exists():
        images = load(config.dataset, config.data)
        order = stratified_order(images.test_labels, config.seed)[: config.images]
        smoother = Smoother(load_model(folder), SrsPaper(steps=steps), smoothing)
        done: list[tuple[dict[str, Any], float]] = []
        with making(out):
            for index in order.tolist():
                since = time.perf_counter()
                image = images.test_images[index].float() / 255
                found = smoother.certify(image, int(images.test_labels[index]), index)
                done.append((found.body(), time.perf_counter() - since))
            out.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(done))
    kept = json.loads(file.read_text())
    certificates = [Certificate.of(body, Probable, PaperTally) for body, _ in kept]
    seconds = {body["index"]: spent for body, spent in kept}
    return Summary.of(certificates, seconds, n0=smoothing.n0)


if __name__ == "__main__":
    main(replace(config_of(__doc__), sigmas=(SIGMA,)))
