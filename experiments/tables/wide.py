"""Kernels of infinitely wide DEQs beside trained ones."""

from __future__ import annotations

from typing import Any

from experiments.results import RESULTS

from .markdown import Row, result, section, table


def nngp() -> str:
    """Accuracies, and what random networks say; nothing where it has not been measured."""
    if not (RESULTS / "nngp.json").exists():
        return ""
    body = result("nngp")
    config, found = body["config"], body["result"]
    shares = [key for key in found["table"][0] if key != "model"]
    head = ["model", *(f"{part}, {share}" for share in shares for part in ("learnt", "test"))]
    rows: list[Row] = [
        (row["model"], *(_share(row[s], part) for s in shares for part in ("train", "test")))
        for row in found["table"]
    ]
    kernels, outputs, paper = found["ridges"], found["outputs"], found["the paper's KS"]
    best = ", ".join(
        f"{max(row['test'] for row in each['rows']):.1%} ({name})" for name, each in kernels.items()
    )
    memory = ", ".join(
        f"{each['peak MiB']:,} MiB ({name.split(',')[0]})" for name, each in kernels.items()
        if "20%" not in name
    )  # fmt: skip
    ks = ", ".join(
        f"{max(each['ks']):.4f} ({name}; the paper {paper[name]}, of one output)"
        for name, each in outputs.items()
    )
    slopes = ", ".join(f"{each['slope']:.3f} ({name})" for name, each in found["width"].items())
    wider = (
        ""
        if 4096 in config["widths"]
        else " Width 4096 is left out: an epoch has 16 times the work of width 1024's, more "
        "than a minute of a core."
    )
    lines = [
        *table(head, rows),
        "",
        f"The best of the ridges, chosen by the test images, would have: {best}. Most memory in "
        f"use while solving, factoring and testing: {memory}.",
        "",
        f"Largest Kolmogorov-Smirnov distance of three outputs at two inputs, of "
        f"{config['networks']:,} random networks of width 1000, from the predicted normal: {ks}. "
        "Log-log slope of the covariance's squared error against width, up to "
        f"{config['covariance_widths'][-1]:,}: {slopes}.",
        "",
        "![accuracies of kernels by ridge and of trained DEQs by epoch]"
        "(images/theory_nngp_learning.png)",
    ]
    return section(
        "A perfect fit by infinitely wide DEQs, and by finite ones",
        "nngp",
        f"{config['images']:,} images of Fashion-MNIST are learnt without a ridge, as they are and "
        f"with a fifth of their classes wrong; {config['test_images']:,} test. Networks train "
        f"until they fit, or {config['epochs']} epochs or {config['seconds']:.0f} s are over; "
        f"means of {config['runs']} runs.{wider}",
        *lines,
    )


def _share(cell: dict[str, Any], part: str) -> str:
    """Write an accuracy, with the range of the runs where there are several."""
    runs = cell.get("test of each run", []) if part == "test" else []
    spread = f" [{min(runs):.2%}, {max(runs):.2%}]" if len(runs) > 1 else ""
    return f"{cell[part]:.2%}{spread}"
