"""The results that the README leads with: a figure each, and the command that measures it."""

from __future__ import annotations

from .certifying import CERTIFIED, COVERAGE
from .comparing import families, title
from .markdown import anchor, command, measured, result, table
from .solving import AGREEMENT, BENCH, DEMO, GAINS

DIGITS = "certify_digits", "the digits, images of 16 channels"
FASHION = "certify_fashion_mnist", "Fashion-MNIST, vectors of 512 numbers"


def summary() -> str:
    """Return the README's table: each figure with its tables and the commands that measure it."""
    rows = [
        (demo(), {"demo": DEMO}),
        (agreement(), {"agreement": AGREEMENT}),
        (gains(), {"tanh_suite_50_float64": GAINS}),
        (bench(), {"bench": BENCH}),
        (verified(), {name: f"{CERTIFIED}: {what}" for name, what in (DIGITS, FASHION)}),
        (coverage(), {"coverage": COVERAGE}),
    ]
    if measured("compare_digits"):
        rows.append((families(), {"compare_digits": title("the digits")}))
    lines = []
    for said, titles in rows:
        links = ", ".join(f"[table](docs/results.md#{anchor(t)})" for t in titles.values())
        lines.append((f"{said} ({links})", "; ".join(f"`{command(name)}`" for name in titles)))
    return "\n".join(table(("measured", "by"), lines))


def demo() -> str:
    passes = result("demo")["result"]["forward passes"].values()
    right = " to ".join(
        f"{100 * each:.2f}"
        for each in sorted({f(p["accuracy"] for p in passes) for f in (min, max)})
    )
    evals = [each["nfe"] for each in passes]
    return (
        f"One set of weights under {len(passes)} forward passes: {right}% of the digits right, by "
        f"{min(evals):.0f} to {max(evals):.0f} evaluations an image"
    )


def agreement() -> str:
    body = result("agreement")["result"]
    single, double = (max(body[kind]["pairs"].values()) for kind in ("float32", "float64"))
    return (
        f"{len(body['float32']['solvers'])} solvers find one equilibrium: they differ by "
        f"{single:.0e} at most in float32, {double:.0e} in float64"
    )


def gains() -> str:
    hardest = list(result("tanh_suite_50_float64")["result"]["by gain"].items())[-1]
    gain, found = hardest
    share = {name: row["solved %"] for name, row in found.items()}
    peer = max((share[n], n) for n in share if n.startswith(("scipy", "torchdeq")))
    return (
        f"Hard equilibria, tanh(W z + b) of 50 units, gain {gain}: `Robust` solves "
        f"{share['Robust']:.0f}%, `Anderson` alone {share['Anderson']:.0f}%, the best peer "
        f"({peer[1]}) {peer[0]:.0f}%"
    )


def bench() -> str:
    case = result("bench")["result"]["forward"]["psd 0.9"]["solvers"]
    ours = case["Anderson (our default)"]["ms"]["median"]
    theirs = min(
        (row["ms"]["median"], name)
        for name, row in case.items()
        if name.startswith("torchdeq") and row["converged"]
    )
    return (
        f"tanh(W z + c), 64 x 256, to the same verified residual: `Anderson` {ours:.1f} ms, the "
        f"fastest of torchdeq ({theirs[1].removeprefix('torchdeq ')}) {theirs[0]:.1f} ms"
    )


def verified() -> str:
    runs = [
        model["runs"]["verified tangent"]
        for name, _ in (DIGITS, FASHION)
        for model in result(name)["result"]["models"].values()
    ]
    fewer = [run["cold evaluations over these"] for run in runs]
    gap = max(abs(100 * run["largest difference in certified accuracy"]) for run in runs)
    return (
        f"Certified by proven votes: {min(fewer):.1f}x to {max(fewer):.1f}x fewer evaluations than "
        f"full solves, certified accuracy within {gap:.0f} point at every radius; of models "
        "trained to allow it"
    )


def coverage() -> str:
    body = result("coverage")
    found = body["result"]
    most = max(
        count
        for rule in found["rules"].values()
        if rule["sound"]
        for count in rule["false certificates"].values()
    )
    srs = max(found["rules"]["SRS, released code"]["false certificates"].values())
    return (
        f"False certificates in {body['config']['runs']:,} runs at alpha "
        f"{body['config']['alpha']:g}: {most} at most by a sound rule, {srs:,} by the released "
        "code of serialized smoothing"
    )
