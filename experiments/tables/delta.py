"""What delta iteration promises and saves."""

from __future__ import annotations

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
