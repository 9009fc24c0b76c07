"""What was measured on a GPU beside torchdeq and torchdiffeq."""

from __future__ import annotations

from typing import Any

from .markdown import Row, measured, result, section, table

WAITS = "waits for the GPU"
TRAININGS = "HomoODE on CIFAR-10 on a GPU, beside torchdiffeq and torchdeq"


def bench() -> str:
    """Solves, gradients, flows and votes, and how often each waits for the GPU."""
    if not measured("bench_cuda"):
        return ""
    body = result("bench_cuda")["result"]
    forward, backward, votes = body["forward"], body["backward"], body["votes under noise"]
    deciding = body["decide"]
    return section(
        "Speed on a GPU",
        "bench_cuda",
        "f(z) = tanh(W z + U x + b), batch 64, width 256, W symmetric positive, float32, "
        "milliseconds (median) at a verified relative residual of 1e-4, and how often a call "
        "waits for the GPU. What f costs there is to launch it, some 0.04 ms, as it is for each "
        "operation of a solver; the GPU is busy a small part of the time.",
        *_beside(forward, lambda case, name: _solved(case["solvers"][name])),
        "",
        *_beside(backward, lambda case, name: _differentiated(case[name])),
        "",
        "The same over sizes, W of norm .95: milliseconds, and waits in brackets.",
        "",
        *_sizes(body["sizes"]),
        "",
        "A flow to t = 5, dopri5 at 1e-3:",
        "",
        *table(
            ("flow", "ms", "calls of f", "waits"),
            [
                (name, f"{r['ms']['median']:.1f}", r["calls of f"], r[WAITS])
                for name, r in body["flow"].items()
                if isinstance(r, dict)
            ],
        ),
        "",
        "Votes of 10,000 noise samples of one image of the digits, and decisions at a radius of "
        "sigma for 64 images, on a dense DEQ of 128 numbers:",
        "",
        *table(
            ("votes", "us a sample", "evaluations a sample", "decide, ms an image"),
            [
                (
                    name,
                    f"{r['us a sample']['median']:.1f}",
                    f"{r['evaluations']:.2f}",
                    f"{deciding[name]['ms an image']['median']:.1f}" if name in deciding else "",
                )
                for name, r in votes.items()
            ],
        ),
    )


def _beside(cases: dict[str, Any], cells: Any) -> list[str]:
    first = next(iter(cases.values()))
    names = first.get("solvers", first)
    what = "evaluations" if "solvers" in first else "error of dW"
    head = [text for case in cases for text in (f"{case}: ms", what, "waits")]
    rows = [[name, *(c for case in cases.values() for c in cells(case, name))] for name in names]
    return table(("forward" if "solvers" in first else "backward", *head), rows)


def _solved(row: dict[str, Any]) -> Row:
    late = "" if row["converged"] else " (not converged)"
    return f"{row['ms']['median']:.1f}", f"{row['evaluations']}{late}", row[WAITS]


def _differentiated(row: dict[str, Any]) -> Row:
    return f"{row['ms']['median']:.1f}", f"{row['error']:.0e}", row[WAITS]


def _sizes(sizes: dict[str, Any]) -> list[str]:
    names = list(next(iter(sizes.values()))["ms"])
    rows = [
        (
            size,
            row["evaluations"],
            *(
                f"{row['ms'][name]['median']:.1f} ({row['waits'][name][WAITS]})"
                + ("" if row["residual"].get(name, 0) <= 1e-4 else " not converged")
                for name in names
            ),
        )
        for size, row in sizes.items()
    ]
    return table(("batch x width", "evaluations", *names), rows)


def trainings() -> str:
    """HomoODE with its release's hyper-parameters, and a DEQ, by peers too."""
    if not measured("cifar10_peers_cuda"):
        return ""
    body = result("cifar10_peers_cuda")
    most = body["config"]["epochs"]
    rows = []
    for name, row in body["result"]["trainings"].items():
        epochs, tested = row["epochs"], row["test accuracy"]
        last, seconds = epochs[-1], sum(each["seconds"] for each in epochs)
        zero = last.get("evaluations from zero")
        rows.append(
            (
                name,
                f"{len(epochs)} of {most}",
                f"{100 * last['validation accuracy']:.1f}",
                f"{100 * tested:.1f}" if tested is not None else "",
                f"{last['evaluations']:.1f}",
                "" if zero is None else f"{zero:.1f}",
                f"{len(epochs) * 45_000 / seconds:,.0f}",
                f"{last['peak memory, MiB']:,.0f}",
                f"{seconds / 60:.0f}",
            )
        )
    return section(
        TRAININGS,
        "cifar10_peers_cuda",
        "HomoODE as published with its release's hyper-parameters but for the epochs (300 there), "
        "and a DEQ of the same parts; by this library with a start that learns, by torchdiffeq "
        "from zero and by torchdeq from where that start begins, in a loop as one writes it. The "
        "four ran side by side and kept the GPU busy, so that images a second are of a quarter of "
        "it; they were ended after 15 minutes, and only what finished saw the test images (5,000 "
        "JPEG files).",
        *table(
            ("by", "epochs", "validation", "test", "evaluations", "from zero", "images a second",
             "peak MiB", "minutes"),
            rows,
        ),
    )  # fmt: skip
