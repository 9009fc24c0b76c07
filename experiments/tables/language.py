"""Language models of one attention block, and their cells under other solvers."""

from __future__ import annotations

from typing import Any

from .markdown import measured, result, section, table

NAME, TITLE = "language", "Language: a transformer that is an equilibrium"


def language() -> str:
    """Return the section, or nothing while there is no result."""
    if not measured(NAME):
        return ""
    body = result(NAME)
    found, training = body["result"], body["config"]["training"]
    text, models, apart = found["text"], found["models"], found["beside the equilibrium"]
    swapped = [name for name, row in models.items() if "swaps" in row]
    others = "; ".join(
        f"{name} {each['bits more']:+.4f} ± {each['standard error']:.4f}"
        for name, each in apart.items()
    )
    return section(
        TITLE,
        NAME,
        f"Characters of the help texts of Python {text['python']} ({text['characters']:,} of them, "
        f"{text['distinct']} distinct; repeated paragraphs once): the first 85% to train on, 5% to "
        f"choose weights by, the last 10% held out. Windows of {training['length']}, "
        f"{training['batch']} a step, {training['minutes']:g} minutes of a processor's time a "
        "model, whatever its step takes. The explicit transformer has "
        f"{body['config']['depth']} narrower blocks; the weight-tied one applies the equilibrium's "
        "block as many times as its solver does. Standard errors are over 20 contiguous blocks "
        f"of the held-out text; in bits more than the equilibrium, on the same blocks: {others}.",
        *table(
            ("transformer", "parameters", "bits per character", "steps", "seconds a step",
             "evaluations there and back", "MiB of a step"),
            [_model(name, row) for name, row in models.items()],
        ),
        "",
        "The one cell of a model under other forward passes, bits per character and evaluations "
        "on the held-out text (n applications are those of a loop; none is trained again):",
        "",
        *table(("forward pass", *swapped), _swaps([models[name]["swaps"] for name in swapped])),
    )  # fmt: skip


def _model(name: str, row: dict[str, Any]) -> tuple[object, ...]:
    step = row["step"]
    return (
        name,
        f"{row['parameters']:,}",
        f"{row['bits per character']:.4f} ± {row['standard error']:.4f}",
        f"{row['curve'][-1]['step']:,}",
        f"{step['seconds a step']:.3f}",
        f"{step['evaluations forward']:g} / {step['evaluations backward']:g}",
        f"{step['MiB of a step']:.0f}",
    )


def _swaps(found: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    def cell(row: dict[str, Any]) -> str:
        left = 1 - row.get("converged", 1)
        failed = f", {100 * left:.1f}% unsolved" if left else ""
        return f"{row['bits per character']:.4f} ({row['evaluations']:g}{failed})"

    return [(name, *(cell(each[name]) for each in found)) for name in found[0]]


def attention() -> str:
    """How far apart the answers of the solvers are on one trained cell, or nothing likewise."""
    if not measured("attention"):
        return ""
    body = result("attention")
    config, found = body["config"], body["result"]
    precisions = [found[name] for name in ("float32", "float64")]

    def row(solver: str) -> tuple[object, ...]:
        each = []
        for of in precisions:
            told = of["solvers"][solver]
            apart = [far for pair, far in of["pairs"].items() if solver in pair.split(" - ")]
            worst = f"{max(apart):.0e}" if apart else "-"
            each += [f"{told['converged']}", f"{told['evaluations']:.0f}", worst]
        return solver, *each

    tolerances = " and ".join(f"{of['rtol']:g}" for of in precisions)
    return section(
        "Language: one attention cell, every solver",
        "attention",
        f"The equilibrium transformer ({config['channels']} channels) after {config['steps']} "
        f"steps of training, {config['windows']} windows of {config['training']['length']} "
        f"held-out characters, solved to relative residuals of {tolerances}: windows solved, mean "
        "evaluations, and the largest relative difference of a window from what any other solver "
        f"found, among those that both have solved. The worst pair: "
        f"{precisions[0]['worst pair']:.0e} in float32, {precisions[1]['worst pair']:.0e} in "
        "float64.",
        *table(
            ("solver", *(f"{name}: {what}" for name in ("float32", "float64")
             for what in ("solved", "evaluations", "apart"))),
            [row(solver) for solver in precisions[0]["solvers"]],
        ),
    )  # fmt: skip
