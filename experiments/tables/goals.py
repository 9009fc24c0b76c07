"""What the time of each kind of work was to be, and what it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .markdown import Row, measured, result, section, table

HALF = {
    "1 x 64": 6.0, "1 x 1024": 1.3, "8 x 256": 2.5, "64 x 64": 5.1, "64 x 256": 1.6,
    "256 x 1024": 1.125, "2048 x 128": 2.15,
}  # fmt: skip
"""Anderson's time over evaluations x f: half of the distance to 1 when these were set, and 1.6."""
DEAR = 0.1
"""Milliseconds of f below which Anderson was to be 6 and 3 times as fast as torchdeq's."""


def goals() -> str:
    """The rows of `make bench` beside what was wanted of each."""
    found = result("bench")["result"]
    rows = [*_sizes(found["sizes"]), *_solves(found), *_steps(found["steps"]), *_others(found)]
    text = "One run. Wanted was set at the first measurement of each row; rows in bold fall short."
    if measured("certify_speed"):
        rows += _certifying(result("certify_speed")["result"]["verdict"])
        text += " Certification is timed by `python -m experiments.certify_speed`, in its own run."
    return section(
        "What was wanted, and what is reached",
        "bench",
        text,
        *table(("work", "now", "wanted"), [_bold(*row) for row in rows]),
    )


def _bold(work: str, now: str, wanted: str, holds: bool) -> Row:
    return work, now if holds else f"**{now}**", wanted


def _sizes(sizes: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    rows = []
    for size, row in sizes.items():
        over = row["over evaluations x f"]
        work = f"Anderson, W of norm .95, {size}: over evaluations x f"
        rows.append((work, f"{over:.2f}", f"<= {HALF[size]:g}", over <= HALF[size]))
        if row["f, ms"] < DEAR:
            default = row["torchdeq's best default over ours"]
            tuned = row["torchdeq's tuned Anderson over ours"]
            work = f"torchdeq's best default, and tuned, over it, {size}"
            holds = default >= 6 and tuned >= 3
            rows.append((work, f"{default:.1f}, {tuned:.1f}", ">= 6, 3", holds))
    return rows


def _solves(found: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    rows = []
    for norm in ("0.9", "0.99"):
        solvers = found["forward"][f"psd {norm}"]["solvers"]
        took = {name: row["ms"]["median"] for name, row in solvers.items()}
        ours = took["Anderson (our default)"]
        default = min(
            ms
            for name, ms in took.items()
            if name.startswith("torchdeq") and "lam" not in name and solvers[name]["converged"]
        )
        tuned = took["torchdeq anderson lam=1e-8"]
        rows.append(
            (
                f"torchdeq's best default, and tuned, over Anderson, W of norm {norm}, 64 x 256",
                f"{default / ours:.1f}, {tuned / ours:.1f}",
                ">= 6, 3.5",
                default >= 6 * ours and tuned >= 3.5 * ours,
            )
        )
    cell = found["overhead"]["convolutional cell"]["ratio"]
    rows.append(("Anderson, a convolutional cell: over evaluations x f", f"{cell:.2f}", "<= 1.2",
                 cell <= 1.2))  # fmt: skip
    hard = found["one hard sample among 256"]["ratio"]
    rows.append(("one hard sample among 256, over all easy", f"{hard:.2f}", "<= 1.35",
                 hard <= 1.35))  # fmt: skip
    return rows


def _steps(steps: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    cases, idle = steps["cases"], steps["idle process, MiB"]
    peer = cases["float32, Unroll"]
    rows = []
    for case, wanted in (
        ("float32, Unroll, RungeKutta", 0.45),
        ("bfloat16, Unroll, RungeKutta", 0.35),
    ):
        share = cases[case]["step, s"]["median"] / peer["step, s"]["median"]
        precision = case.partition(",")[0]
        work = f"a training step of HomoODE, {precision}, over torchdiffeq's in float32"
        rows.append((work, f"{share:.2f}", f"<= {wanted}", share <= wanted))
    least = min(
        ("float32, Unroll, RungeKutta", "float32, Unroll(checkpoint=1), RungeKutta"),
        key=lambda case: cases[case]["peak memory, MiB"],
    )
    share = (cases[least]["peak memory, MiB"] - idle) / (peer["peak memory, MiB"] - idle)
    rows.append((f"its memory above the idle process, {least}", f"{share:.2f}", "<= 0.5",
                 share <= 0.5))  # fmt: skip
    return rows


def _others(found: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    newton = found["demo"]["newton-krylov"]["evaluations"]
    paths = found["paths"]["scipy's loop over ours"]
    loading = found["loading"]
    help_, ours, torch = (
        loading[name]["median"]
        for name in (
            "homotopy-deq --help",
            "from homotopy_deq import ImplicitLayer",
            "import torch",
        )
    )
    return [
        ("NewtonKrylov on the model of `make demo`, evaluations", f"{newton:.1f}", "<= 25",
         newton <= 25),
        ("SciPy's loop over 256 paths at once", f"{paths:.1f}", ">= 20", paths >= 20),
        ("`homotopy-deq --help`, CPU seconds", f"{help_:.2f}", "<= 0.4",
         help_ <= 0.4),
        ("`from homotopy_deq import ImplicitLayer`, over `import torch`", f"{ours / torch:.2f}",
         "<= 1.3", ours <= 1.3 * torch),
    ]  # fmt: skip


def _certifying(found: Mapping[str, Any]) -> list[tuple[str, str, str, bool]]:
    many, four, least = (
        found[name] for name in ("configurations", "radius, at least 4 times", "radius, least")
    )
    five, slowest = found["decide, at least 5 times"], found["decide, least"]
    before = "the first version's cold run over ours"
    return [
        (f"whole radius, {before}: at least 4, of {many}", f"{four}", ">= 8", four >= 8),
        (f"whole radius, {before}: the least of {many}", f"{least:.1f}", ">= 2.5", least >= 2.5),
        (f"decisions at one radius, {before}: at least 5, of {many}", f"{five}", f"{many}",
         five == many),
        (f"decisions at one radius, {before}: the least of {many}", f"{slowest:.1f}", ">= 5",
         slowest >= 5),
    ]  # fmt: skip
