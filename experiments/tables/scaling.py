"""How time grows with width, batch, hard samples and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .markdown import result, section, table


def scaling() -> str:
    """The picture and its figures; "" while the result is one of memory alone."""
    body = result("scaling")
    found, config = body["result"], body["config"]
    if "ranks" not in found:
        return ""
    sizes = [
        (f"{config['batch']} x {width}", *_figures(row)) for width, row in found["width"].items()
    ] + [(f"{batch} x {config['width']}", *_figures(row)) for batch, row in found["batch"].items()]
    hard = found["hard samples of a batch"]
    easy = hard["0"]["solve, ms"]
    ranks = found["ranks"]
    one = ranks["1"]["samples a second"]
    shape = " x ".join(map(str, config["rank"][1:]))
    return section(
        "How time grows",
        "scaling",
        f"tanh(W z + c), ||W|| = .95, to 1e-4, medians of {config['repeats']}. Of "
        f"{max(config['hard'])} samples some are hard and the others have a quarter of the gain; "
        f"each rank trains HomoODE's cell on {config['rank'][0]} states of {shape}.",
        "![time against width, batch and hard samples, and samples a second against ranks]"
        f"(images/{found['picture']})",
        "",
        *table(("batch x width", "evaluations", "solve, ms", "over evaluations x f"), sizes),
        "",
        *table(
            ("hard samples", "evaluations of these", "mean", "solve, ms", "over all easy"),
            [
                (k, r["evaluations"], f"{r['evaluations, mean']:.1f}", f"{r['solve, ms']:.2f}",
                 f"{r['solve, ms'] / easy:.2f}")
                for k, r in hard.items()
            ],
        ),
        "",
        *table(
            ("ranks", "step, ms", "the reduction, ms", "samples a second", "of proportion"),
            [
                (k, f"{r['step, ms']:.0f}", f"{r['of which the reduction, ms']:.2f}",
                 f"{r['samples a second']:.0f}", f"{r['samples a second'] / one / int(k):.0%}")
                for k, r in ranks.items()
            ],
        ),
    )  # fmt: skip


def _figures(row: Mapping[str, Any]) -> tuple[str, ...]:
    over = row["solve, ms"] / row["evaluations x f, ms"]
    return str(row["evaluations"]), f"{row['solve, ms']:.2f}", f"{over:.2f}"
