"""What the runs of one model with several seeds say together, and how models stand side by side."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..certification.statistics import binomial_band

Figures = Mapping[str, Any]
Row = dict[str, Any]

APART = 0.1
"""Counts of parameters within this share of the median are called equal."""


def summarise(runs: Sequence[Figures], level: float = 0.95) -> Row:
    """Return the figures of one model from its finished runs, means over the seeds.

    Accuracy has two bands: the least and the largest of the seeds, and Clopper and Pearson's
    interval of its mean for so many test images, which says what other images might give.

    Arguments:
        runs: of each seed `seed`, `parameters`, `seconds` of training, `test` (as a checkpoint
            holds it), `step` (as `Step`) and `swapped` (by solver, as `Evaluation`).
        level: of confidence.
    """
    tests = [run["test"] for run in runs]
    accuracy = [test["accuracy"] for test in tests]
    mean, images = statistics.fmean(accuracy), tests[0]["samples"]
    swaps = [name for name in runs[0]["swapped"] if all(name in run["swapped"] for run in runs)]
    return {
        "seeds": [run["seed"] for run in runs],
        "parameters": runs[0]["parameters"],
        "accuracy": {
            "mean": mean,
            "of the seeds": [min(accuracy), max(accuracy)],
            "of the images": list(binomial_band(round(mean * images), images, level)),
            "test images": images,
            "each": accuracy,
        },
        "evaluations": _mean(tests, "nfe"),
        "step": {
            name: _mean([run["step"] for run in runs], name)
            for name in ("forward", "backward", "seconds", "peak_mib")
        },
        "seconds of training": statistics.fmean(run["seconds"] for run in runs),
        "converged": _mean(tests, "converged"),
        "residual": {
            "median": _mean(tests, "residual_median"),
            "worst": _largest(tests, "residual_worst"),
        },
        "swapped": {
            name: {
                key: _mean([run["swapped"][name] for run in runs], key)
                for key in ("accuracy", "nfe", "converged")
            }
            for name in swaps
        },
    }


def unequal(parameters: Mapping[str, int]) -> str | None:
    """Return what to say where models have not the same number of parameters, or None.

    Arguments:
        parameters: of each model, by its name.
    """
    middle = statistics.median(parameters.values())
    off = {name: count for name, count in parameters.items() if abs(count / middle - 1) > APART}
    if not off:
        return None
    told = ", ".join(f"{name} {count / middle:.2f}x" for name, count in off.items())
    return f"parameters differ by more than {APART:.0%} from the median, {middle:,.0f}: {told}."


HEAD = (
    "model", "accuracy, %", "parameters", "evaluations", "a step: forward", "back", "seconds",
    "MiB", "converged, %", "residual", "swapped, %",
)  # fmt: skip


def cells(name: str, row: Row) -> tuple[str, ...]:
    """Return a row of the table as text: a figure for each of `HEAD`, "-" where there is none.

    Arguments:
        name: of the model.
        row: its figures.
    """
    accuracy, step, swapped = row["accuracy"], row["step"], row["swapped"]
    worst = min(swapped, key=lambda solver: float(swapped[solver]["accuracy"]), default=None)
    return (
        name,
        f"{100 * accuracy['mean']:.2f}",
        f"{row['parameters']:,}",
        _said(row["evaluations"], ".1f"),
        _said(step["forward"], ".1f"),
        _said(step["backward"], ".1f"),
        _said(step["seconds"], ".3f"),
        _said(step["peak_mib"], ".0f"),
        _said(100 * row["converged"], ".1f"),
        _said(row["residual"]["median"], ".0e"),
        "-" if worst is None else f"{100 * swapped[worst]['accuracy']:.2f} {worst}",
    )


def bands(row: Row) -> tuple[str, str]:
    """Return the least and the largest accuracy of the seeds, and the band of the images, in %.

    Arguments:
        row: the figures of one model.
    """
    parts = (row["accuracy"][of] for of in ("of the seeds", "of the images"))
    seeds, images = (f"{100 * low:.1f} to {100 * high:.1f}" for low, high in parts)
    return seeds if len(row["seeds"]) > 1 else "-", images


def markdown(rows: Mapping[str, Row]) -> str:
    """Return the table of models in Markdown.

    Arguments:
        rows: the figures of each model, by its name.
    """
    head = (*HEAD[:2], "of the seeds", "of the images (95%)", *HEAD[2:])
    lines: list[Sequence[str]] = [head, ["---"] * len(head)]
    for name, row in rows.items():
        first, accuracy, *rest = cells(name, row)
        lines.append((first, accuracy, *bands(row), *rest))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean(parts: Iterable[Figures], name: str) -> float | None:
    found = [part[name] for part in parts]
    return None if None in found else statistics.fmean(found)


def _largest(parts: Iterable[Figures], name: str) -> float | None:
    found = [part[name] for part in parts]
    return None if None in found else max(found)


def _said(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
