"""What a port of torchdeq's own examples changes, and what it gives."""

from __future__ import annotations

from typing import Any

from experiments.porting_copies import count

from .markdown import measured, result, section, table

ZOO = "torchdeq's own examples, through torchdeq and through the adapter"


def zoo() -> str:
    """Lines changed, and both versions of each example side by side."""
    if not measured("porting_zoo"):
        return ""
    body = result("porting_zoo")
    found = body["result"]["examples"]
    changes = [
        (name, ", ".join(f"`{file}`" for file in files(each)), _imports(each), _others(each),
         count(each["changes"]["today"]))
        for name, each in found.items()
    ]  # fmt: skip
    own = [row for name, each in found.items() for row in _own(name, each["its own"])]
    exact = [row for name, each in found.items() for row in _exact(name, each.get("exact", {}))]
    return section(
        ZOO,
        "porting_zoo",
        f"The files of its repository, torchdeq {body['result']['torchdeq']}. Lines changed are "
        "those of the port; lines before it are those without which neither version runs today.",
        *table(("example", "files", "import lines", "other lines", "before it"), changes),
        "",
        "One step at the same weights, data and seed, by the options of each example's own script "
        "(the graph network's without dropout, whose mask depends on the layout of memory): "
        "evaluations, the worst relative residual at the answer, measured anew, milliseconds "
        "(least of several, interleaved, on a machine that had other work), the relative "
        "difference of losses and of gradients, and the loss after ten steps of training.",
        "",
        *table(
            ("example", "by", "evaluations", "residual", "forward, ms", "step, ms", "loss apart",
             "gradient apart", "then"),
            own,
        ),
        "",
        "By implicit gradients, to a relative tolerance of 1e-6 (the graph network by 40 "
        "iterations: it normalises each node, and its last ones are 1e-8 of its first): the "
        "errors of loss and gradient are against an iteration of 300 steps whose last 100 are "
        "differentiated.",
        "",
        *table(
            ("example", "by", "evaluations", "residual", "step, ms", "loss error",
             "gradient error"),
            exact,
        ),
    )  # fmt: skip


def files(example: dict[str, Any]) -> list[str]:
    """Return the files that a port changes."""
    return list(dict.fromkeys(each["file"] for each in example["changes"]["port"]))


def _imports(example: dict[str, Any]) -> int:
    lines = [line for each in example["changes"]["port"] for line in each["after"]]
    return sum("import" in line for line in lines)


def _others(example: dict[str, Any]) -> int:
    return count(example["changes"]["port"]) - _imports(example)


def _own(name: str, found: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name, by, f"{row['evaluations']:.0f}", f"{row['residual']:.0e}",
            f"{row['forward, ms']:.0f}", f"{row['step, ms']:.0f}",
            *((f"{found['loss apart']:.0e}", f"{found['gradient apart']:.0e}") * (by == "ours")
              or ("", "")),
            f"{row['training'][-1]:.4f}",
        )
        for by, row in found.items()
        if by in ("torchdeq", "ours")
    ]  # fmt: skip


def _exact(name: str, found: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name, by, f"{row['evaluations']:.0f}", f"{row['residual']:.0e}",
            f"{row['step, ms']:.0f}", f"{row['loss error']:.0e}", f"{row['gradient error']:.0e}",
        )
        for by, row in found.items()
        if by in ("torchdeq", "ours")
    ]  # fmt: skip
