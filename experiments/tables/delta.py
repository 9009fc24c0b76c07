"""What delta iteration promises and saves."""

from __future__ import annotations

from typing import Any

from experiments.results import RESULTS

from .markdown import result, section, table

NAME, TITLE = "delta_bounds", "Delta updates: bounds, and a trained DEQ"
WORTH = "dense evaluations' worth"


def bounds() -> str:
    """The bounds, the relative threshold, a trained model; nothing where it was not measured."""
    if not (RESULTS / f"{NAME}.json").exists():
        return ""
    body = result(NAME)
    found, rtol = body["result"], body["config"]["rtol"]
    held, nearest = found["bounds"], found["bounds"]["largest error / bound"]
    uneven, even = found["heterogeneous"], found["homogeneous"]
    trained = {k: v for k, v in found["trained"].items() if k not in ("tau", "budget")}
    return section(
        TITLE,
        NAME,
        f"Of {held['solves']:,} random contractions {held['prior broken']} end farther off than "
        f"the bound before the solve, l tau / (1 - l), and {held['posterior broken']} than the one "
        f"after it; the nearest come to {100 * nearest['prior']:.2f}% and "
        f"{100 * nearest['posterior']:.2f}% of them. The published rule exceeds the first on "
        f"{held['published rule broken']}, by up to {100 * nearest['published rule'] - 100:.0f}%.",
        f"Multiply-adds to a residual of {rtol:g}, in dense evaluations a sample: with "
        f"{100 * body['config']['slow']:.0f}% of the entries slow, and with all.",
        "",
        *table(
            ("way", "heterogeneous", "homogeneous"),
            ((way, f"{uneven[way]:.1f}", f"{even[way]:.1f}") for way in uneven),
        ),
        "",
        f"A DEQ of {body['config']['trained']} entries trained on the built-in digits, all test "
        "images but those that chose the threshold, at once:",
        "",
        *table(
            ("forward pass", "loss", "accuracy", WORTH, "ms"),
            (
                (way, f"{row['loss']:.3f}", f"{100 * row['accuracy']:.1f}%", f"{row[WORTH]:.1f}",
                 f"{row['milliseconds']:.0f}")
                for way, row in trained.items()
            ),
        ),
    )  # fmt: skip


def cuda() -> str:
    """A product with some columns on a GPU, beside all of it."""
    rows = [
        (
            case,
            f"{float(density):.0%}",
            *(_step(case_found["dense"], found, key) for key in ("ms", "graph, ms")),
        )
        for case, case_found in result("delta_cuda")["result"].items()
        for density, found in case_found["density"].items()
    ]
    head = ("case", "density", "call by call", "in a CUDA graph")
    return section(
        "A delta step on a GPU",
        "delta_cuda",
        "Times faster than the faster dense product (`linear` or `addmm`), at that share of the "
        "columns: columns gathered once and kept, gathered each time, and our Triton kernel at the "
        "best of its tiles. Single steps are shorter than a launch, so that call by call "
        "next to nothing pays; in a graph gathering pays where TF32 is off, up to half the columns "
        "at the larger sizes, and hardly where it is on, as dense products are faster then. Our "
        "kernel beats the gather at one small size alone.",
        *table(head, rows),
    )


def speed() -> str:
    """Delta products, steps and whole solves beside dense ones on a processor."""
    found = result("delta_speed")["result"]
    parts = [
        (f"{kind}: {case}", f"{float(density):.0%}")
        + tuple(f"{rows[f'{density}, {what}']['times faster']:.1f}" for what in ("product", "step"))
        for kind in ("columns", "tiles")
        for case, rows in found[kind].items()
        for density in sorted({name.split(",")[0] for name in rows if name[0] == "0"})
    ]
    solves = [
        (case, way, f"{row['ms']:.0f}", f"{rows['Picard']['ms'] / row['ms']:.2f}")
        for kind in ("solves", "bfloat16")
        for case, rows in found[kind].items()
        for way, row in rows.items()
    ]
    ((worst, ratio),) = found["slowest choice, times the dense"].items()
    return section(
        "Delta steps and solves on a processor",
        "delta_speed",
        "Times faster than the fastest dense product, or step of the whole solver, where "
        "that share of columns or tiles moves; below, whole solves to the same residual.",
        *table(("case", "density", "product", "step"), parts),
        "",
        *table(("case", "solver", "ms", "times Picard's speed"), solves),
        "",
        f"Left to choose, a delta solver takes at most {ratio:.3f} of the time that it takes with "
        f"dense steps, over {len(found['dispatch'])} sizes (the worst: {worst}).",
    )


def _step(dense: dict[str, Any], found: dict[str, Any], key: str) -> str:
    """Write the three gains of one density."""
    least = min(each[key] for each in dense.values())
    tiles = [row[key] for name, row in found.items() if name.startswith("triton") and key in row]
    each = found["gathered once"][key], found["gather and product"][key], min(tiles)
    return " / ".join(f"{least / ms:.2f}" for ms in each)
