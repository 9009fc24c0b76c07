"""What the parts of an augmented Neural ODE do."""

from __future__ import annotations

from experiments.results import RESULTS

from .markdown import result, section, table

NAME = "augmented"


def augmented() -> str:
    """Whether the augmented part plays the equilibrium; "" where it was not measured yet."""
    if not (RESULTS / f"{NAME}.json").exists():
        return ""
    body = result(NAME)
    mean, holds, runs = (body["result"][key] for key in ("mean", "holds", "runs"))
    share = {k: f"{100 * v:.2f}" for k, v in mean.items() if "accuracy" in k}
    rows = [
        (
            "the head reads a",
            f"accuracy {share['accuracy']}; {share['accuracy without a']} with the mean for a(1), "
            f"{share['accuracy without u']} for u(1)",
            "a costs twice what u costs",
            _told(holds["answer"]),
        ),
        (
            "u acts as the condition",
            f"held at x, a(1) moves by {mean['a moves with u held']:.2f} of itself, accuracy "
            f"{share['accuracy with u held']}; in the model u moves by {mean['u moves']:.2f}",
            "0.1, and a point",
            _told(holds["condition"]),
        ),
        (
            "a comes to rest",
            f"speed at the end {mean['speed of a at the end']:.2f} of the mean speed; accuracy "
            f"{share['accuracy at twice the time']} at t = 2; of the DEQ's flow "
            f"{mean['DEQ speed of z at the end']:.2f}, {share['DEQ accuracy at twice the time']}",
            "0.1, and a point",
            _told(holds["rest"]),
        ),
        (
            "a is like the equilibrium",
            f"R² of a DEQ's z* from a(1) {mean['R2 of a(1)']:.3f}, from u(1) "
            f"{mean['R2 of u(1)']:.3f}, from x {mean['R2 of x']:.3f}",
            "a above u",
            _told(holds["likeness"]),
        ),
    ]
    return section(
        "The augmented part of an augmented Neural ODE",
        NAME,
        "The state is (u, a), u(0) = x and a(0) = 0, of equally many channels. If a plays the "
        f"equilibrium and u its condition, all four hold, in each of {len(runs)} seeds. The field "
        "ends in a norm, as published, so that its speed cannot fall.",
        *table(("claim", "measured, mean of the seeds", "asked", "holds"), rows),
    )


def _told(holds: bool) -> str:
    return "yes" if holds else "no"
