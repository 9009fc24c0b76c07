"""What each gradient costs, and how far it is from the exact one."""

from __future__ import annotations

from typing import Any

from .markdown import measured, result, section, table


def gradients() -> str:
    """Every rule beside float64 autograd, or nothing where it is not measured."""
    if not measured("gradients"):
        return ""
    body = result("gradients")
    sizes = body["config"]["steps"]
    heads = [f"{steps} steps: {what}" for steps in sizes for what in ("error", "ms", "states")]
    rows = [
        (kind, f"`{rule}`", *(cell for steps in sizes for cell in _cells(of[str(steps)])))
        for kind, rules in body["result"].items()
        for rule, of in rules.items()
    ]
    return section(
        "Gradients",
        "gradients",
        "Error of dL/dW beside float64 autograd through a converged solve, milliseconds of solve "
        "and gradient, and the most that tensors held at a time, in states of the batch (torch's "
        "allocator, as its profiler tells of it; a state is 64 x 256 numbers). Of 10 steps the "
        "error holds what the forward pass lacks. Broyden stops by itself before its 200th step. "
        "*refused*: the way back missed its start by more than its tolerance, and said so.",
        *table(("answer", "rule", *heads), rows),
    )


def _cells(row: dict[str, Any]) -> tuple[str, str, str]:
    if "refused" in row:
        return "*refused*", "", ""
    return f"{row['error']:.0e}", f"{1000 * row['seconds']:.1f}", f"{row['peak, states']:.1f}"
