"""What skipping the coordinates that have converged saves, and how unevenly they do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .markdown import result, section, table

HETEROGENEOUS = "Coordinates converge unevenly"
INR = "Representations by equilibria: what skipping saves"
FLOW = "Optical flow by an equilibrium: what skipping saves"


def heterogeneous() -> str:
    """When entries come to rest, and the dimensions in which iterations move."""
    found = result("heterogeneous")["result"]["iterations"]
    rows = []
    for name, row in found.items():
        first, middle, most, last = row["at rest after, quantiles 10/50/90/100%"]
        dims = row["dimension of z_k - z*"]
        rows.append((
            name, f"{first} / {middle} / {most} / {last}", dims["state"],
            dims["components for 90%"], dims["components for 99%"],
            dims["participation ratio"],
        ))  # fmt: skip
    times = found["sine RNN"]["states over time"]
    states = [
        (k, f"{100 * row['away from the equilibria, relative']:.2g}%", row["components for 99%"])
        for k, row in times.items()
    ]
    return section(
        HETEROGENEOUS,
        "heterogeneous",
        "Iterations after which 10 / 50 / 90 / 100% of the entries stay within 1e-3 of the answer "
        "(of its root mean square), and the effective dimension of the way z_k - z* of many "
        "samples together: principal components that hold 90% and 99% of its variance.",
        *table(("iteration", "at rest after", "state", "90%", "99%", "participation ratio"), rows),
        "",
        "![shares that still move, and maps](images/heterogeneous.png)",
        "",
        "The sine RNN's states over time, after so many iterations at each time:",
        "",
        *table(("iterations", "away from the equilibria", "components for 99%"), states),
        "",
        "![its states in their plane](images/sine_states.png)",
    )


def inr() -> str:
    """The cuts within the allowed loss, of every way."""
    body = result("inr")
    found = body["result"]["rows"]
    heads = list(next(iter(found.values()))["ways"])

    def cut(row: Mapping[str, Any] | None) -> str:
        if row is None:
            return "none"
        return f"{100 * row['cut']:.1f}% ({row['loss, dB']:.3f} dB)"

    rows = [
        (
            name,
            f"{row['PSNR, dB']:.1f}",
            *(cut(row["best within 0.1 dB"][way]) for way in heads),
            f"{100 * max(fine(row['ways']['delta'])):.1f}%",
        )
        for name, row in found.items()
    ]
    return section(
        INR,
        "inr",
        f"Multiply-adds cut against {body['config']['iterations']} fixed iterations at a loss of "
        "at most 0.1 dB, counted by the entries that changed, final dense check included; U x is "
        f"computed once on all sides. Signals: {body['result']['signals']}. The paper: "
        f"{body['result']['paper']}. The last column is what the kernels computed: they skip a "
        "column only where all coordinates of the batch may, so that early stopping saves more "
        "here.",
        *table(("", "PSNR, dB", *heads, "delta, as computed"), rows),
        "",
        "![loss against what is cut](images/inr.png)",
    )


def fine(rows: list[dict[str, float]]) -> list[float]:
    """Return what the kernels cut where the loss is allowed."""
    return [row["cut, as computed"] for row in rows if row["loss, dB"] <= 0.1]


def flow() -> str:
    """The cuts and the errors of pairs, and what warm starts take of the evaluations."""
    body = result("flow")
    found = body["result"]
    steps = found["training"].get("steps", body["config"]["steps"])  # fewer where time was up
    pairs = found["pairs"]["rows"]

    def percent(row: Mapping[str, Any], name: str) -> str:
        return f"{100 * row[name]:.1f}%" if name in row else ""

    modules = ("cut", "encoder", "gru", "head", "cut in tiles")
    rows = [
        (name, f"{row['EPE']:.3f}", f"{row['F1']:.2f}", *(percent(row, each) for each in modules))
        for name, row in pairs.items()
    ]
    clips = {
        name: each["rows"] for name, each in found.items() if isinstance(each, dict)
        and "frames" in each
    }  # fmt: skip
    heads = [text for name in clips for text in (f"{name}: evaluations a frame", "EPE")]
    followed = [
        [way]
        + [
            text
            for each in clips.values()
            for text in (
                f"{each[way]['effective evaluations a frame']:.2f} "
                f"({percent(each[way], 'of the cold evaluations')})",
                f"{each[way]['EPE']:.3f}",
            )
        ]
        for way in next(iter(clips.values()))
    ]
    paper = "; ".join(f"{name}: {said}" for name, said in found["paper"].items())
    return section(
        FLOW,
        "flow",
        f"Not here: {found['not here']}. A network of {found['parameters']:,} parameters after "
        f"{steps:,} steps of training, and Lucas and Kanade's method. End-point error in pixels, "
        "F1 in percent; multiply-adds of the update block cut against 60 damped iterations, by "
        f"module and in tiles of 4 x 4 cells. The paper: {paper}.",
        *table(("pairs", "EPE", "F1", *modules), rows),
        "",
        "After 60 iterations the median relative residual is "
        f"{found['pairs']['relative residual after the last']:.1g}; end-point errors after "
        + ", ".join(f"{n}: {epe:.3f}" for n, epe in found["pairs"]["EPE after iterations"].items())
        + " iterations.",
        "",
        "Moving views; evaluations are multiply-adds over those of a dense evaluation, in brackets "
        "as a part of those from a cold start:",
        "",
        *table(("", *heads), followed),
        "",
        "![errors against what is cut](images/flow.png)",
        "",
        "![where the state of a pair comes to rest](images/flow_rest.png)",
    )
