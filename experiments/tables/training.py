"""What training takes."""

from __future__ import annotations

from .markdown import result, section, table


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


def step() -> str:
    """The CIFAR-10 training step."""
    body = result("cifar_step")["result"]
    rows = [
        (
            name,
            f"{r['forward, s']:.2f}",
            f"{r['step, s']:.2f}",
            f"{r['evaluations forward']:.0f}",
            r["peak memory, MiB"],
        )
        for name, r in body.items()
    ]
    parameters = next(iter(body.values()))["parameters"]
    return section(
        "One training step of HomoODE as published",
        "cifar_step",
        f"CIFAR-10 configuration, {parameters:,} parameters, batch 64, dopri5 at 1e-3, random "
        "images.",
        *table(
            ("precision, gradient", "forward, s", "step, s", "evaluations forward", "peak MiB"),
            rows,
        ),
    )
