"""What training takes."""

from __future__ import annotations

from typing import Any

from .markdown import Row, measured, result, section, source, table


def fashion() -> str:
    """Training on real images, killed and resumed."""
    body = result("fashion_mnist")["result"]
    solvers = ", ".join(
        f"{name} {100 * row['accuracy']:.2f}%" for name, row in body["forward passes"].items()
    )
    same = "the same bytes" if body["checkpoints identical"] else "OTHER bytes"
    return section(
        "Real images",
        "fashion_mnist",
        "The rest-point HomoODE on 10,000 images of Fashion-MNIST, 3 epochs: "
        f"{100 * body['test accuracy']:.2f}% on the 10,000 test images in "
        f"{body['seconds']:.0f} s; a run killed with -9 after {body['killed after']} and resumed "
        f"ended with {same}. Its weights under other forward passes: {solvers}.",
    ).strip()


def first_hour() -> str:
    """What each command and block of the newcomer's page takes."""
    if not measured("first_hour"):
        return ""
    steps = result("first_hour")["result"]["steps"]
    rows = [
        (
            each["under"],
            each["what"] if each["what"].startswith("the block") else f"`{each['what']}`",
            f"{each['seconds']:.1f}" if each["seconds"] < 10 else f"{each['seconds']:.0f}",
        )
        for each in steps
    ]
    rows.append(("Together", "", f"{sum(each['seconds'] for each in steps):.0f}"))
    return "\n".join([source("first_hour"), "", *table(("", "what", "seconds"), rows)])


def step() -> str:
    """The CIFAR-10 training step, on a processor and on a GPU."""
    return "\n\n".join(
        _step(title, name)
        for title, name in (
            ("One training step of HomoODE as published", "cifar_step"),
            ("The same step on a GPU", "cifar_step_cuda"),
        )
        if measured(name)
    )


def _step(title: str, name: str) -> str:
    body = result(name)["result"]
    rows = [
        (
            case,
            *(f"{s:.{2 if s > 0.1 else 3}f}" for s in (r["forward, s"], r["step, s"])),
            f"{r['evaluations forward']:.0f}",
            r["peak memory, MiB"],
        )
        for case, r in body.items()
    ]
    parameters = next(iter(body.values()))["parameters"]
    return section(
        title,
        name,
        f"CIFAR-10 configuration, {parameters:,} parameters, batch 64, dopri5 at 1e-3, random "
        "images.",
        *table(
            ("precision, gradient", "forward, s", "step, s", "evaluations forward", "peak MiB"),
            rows,
        ),
    )


def start() -> str:
    """What each start is worth, on digits and on CIFAR-10."""
    kinds = result("start")["result"]
    rows = [
        (
            kind,
            name,
            f"{100 * row['mean']['accuracy']:.2f}",
            f"{row['mean']['evaluations']:.1f}",
            f"{row['mean']['from zero']:.1f}",
            f"{row['mean']['to 1e-5']:.2f}" if "to 1e-5" in row["mean"] else "",
            f"{row['mean']['to 1e-5 from zero']:.2f}" if "to 1e-5" in row["mean"] else "",
        )
        for kind, starts in kinds.items()
        for name, row in starts.items()
    ]
    head = ("model", "start", "accuracy", "evaluations", "from zero", "to 1e-5", "from zero")
    return section(
        "Measured",
        "start",
        "Each model trained on the digits with each start; its own solver's evaluations of a test "
        "image from the start and from zero, and Anderson's to a residual of 1e-5.",
        *table(head, rows),
    )


def cifar10() -> str:
    """HomoODE and its peers on CIFAR-10."""
    return "\n\n".join(
        _cifar10(title, name, text)
        for title, name, text in (
            ("CIFAR-10", "cifar10", "On one core each, beside other work on the machine."),
            (
                "CIFAR-10 on a GPU, before the slow start",
                "cifar10_cuda",
                "The four ran side by side with other work on one GPU. The published form had a "
                "start that followed the flow's end quickly (rate 0.2, every step), and lost by "
                "it: see [where a solve starts](start.md). Its default is slow since.",
            ),
        )
        if measured(name)
    )


def _cifar10(title: str, name: str, text: str) -> str:
    body = result(name)
    models = body["result"]["models"]
    rows = [
        (
            model,
            row["epochs"],
            f"{row['train images']:,}",
            f"{100 * row['validation accuracy'][-1]:.1f}",
            "" if row["test accuracy"] is None else f"{100 * row['test accuracy']:.1f}",
            f"{row['evaluations'][-1]:.1f}",
            f"{sum(row['seconds an epoch']) / 60:.0f}",
            f"{row['images a second'][-1]:,.0f}",
        )
        for model, row in models.items()
        if row["epochs"]
    ]
    if left := [model for model, row in models.items() if not row["epochs"]]:
        text += f" Not trained for an epoch yet: {', '.join(left)}."
    head = ("model", "epochs", "train images", "validation", "test", "evaluations", "minutes",
            "train images a second")  # fmt: skip
    return section(
        title,
        name,
        "The release's hyper-parameters, but for the epochs (300 there), all with the same rates "
        f"over {body['config']['epochs']} epochs; trainings that the time did not let finish "
        f"have no test accuracy, as the test images are looked at once, at the end. {text}",
        *table(head, rows),
    )


TUTORIAL = "The tutorial's cell, with and without a Jacobian penalty"


def tutorial() -> str:
    """How the best-known tutorial's cell drifts, and what solves it then."""
    if not measured("tutorial_cell"):
        return ""
    body = result("tutorial_cell")
    config = body["config"]
    drift, solving = tutorial_rows(body["result"])
    weights = [f"penalty {weight}" for weight in body["result"]]
    return section(
        TUTORIAL,
        "tutorial_cell",
        f"norm3(relu(z + norm2(x + conv2(norm1(relu(conv1 z)))))), {config['channels']} channels, "
        f"{config['inner']} inside, {config['limit']:,} images of {config['dataset']}, Anderson of "
        f"{config['evaluations']} evaluations to {config['rtol']:g}. By epoch: growth of J^T, "
        "median and worst of "
        f"{config['looked_at']} test images; test images that their own solver leaves unsolved.",
        *table(
            ("penalty", "growth by epoch", "unsolved by epoch", "accuracy", "s an epoch"), drift
        ),
        "",
        f"The trained maps under other solvers, {config['solved_for']} test images: solved, mean "
        "evaluations, accuracy of the answers.",
        "",
        *table(("solver", *weights), solving),
    )


def tutorial_rows(body: dict[str, Any]) -> tuple[list[Row], list[Row]]:
    """Return the rows of both tables."""
    drift = []
    for weight, found in body.items():
        rows = found["epochs"]
        drift.append((
            weight,
            "; ".join(f"{r['growth, median']:.2f}, {r['growth, worst']:.2f}" for r in rows),
            ", ".join(f"{r['unsolved']:.0%}" for r in rows),
            f"{100 * rows[-1]['accuracy']:.1f}%",
            f"{sum(r['seconds'] for r in rows) / len(rows):.0f}",
        ))  # fmt: skip
    names = list(next(iter(body.values()))["solvers"])
    solving = [
        (name, *(
            f"{row['solved']:.0%}, {row['evaluations']:.0f}, {row['accuracy']:.1%}"
            for row in (found["solvers"][name] for found in body.values())
        ))
        for name in names
    ]  # fmt: skip
    return drift, solving
