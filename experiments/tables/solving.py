"""What solvers find, and at what cost."""

from __future__ import annotations

from typing import Any

from experiments.conformance import shown

from .markdown import measured, result, section, table

DEMO = "One set of weights, many forward passes"
AGREEMENT = "Every solver finds the same equilibrium"
GAINS = "Hard equilibria"
CONFORMANCE = "MINPACK's hard systems"
BENCH = "Speed beside torchdeq"


def demo() -> str:
    """One set of weights under many forward passes."""
    passes = result("demo")["result"]["forward passes"]
    rows = [
        (name, f"{100 * r['accuracy']:.2f}%", f"{r['nfe']:.1f}", f"{r['residual_median']:.1e}")
        for name, r in passes.items()
    ]
    samples = next(iter(passes.values()))["samples"]
    return section(
        DEMO,
        "demo",
        "A rest-point HomoODE trained on the built-in digits along rk4, then evaluated on "
        f"{samples} test images.",
        *table(("forward pass", "accuracy", "evaluations of f", "median relative residual"), rows),
        "",
        "![relative residual against evaluations of f](images/forward_passes.png)",
    )


def agreement() -> str:
    """The pairwise differences of one DEQ's equilibria."""
    body = result("agreement")["result"]
    single, double = body["float32"], body["float64"]
    names = list(single["solvers"])
    rows = []
    for i, a in enumerate(names[1:], 1):
        cells = [
            f"{single['pairs'][f'{a} - {b}']:.0e} / {double['pairs'][f'{a} - {b}']:.0e}"
            for b in names[:i]
        ]
        rows.append([a, *cells, *[""] * (len(names) - 1 - i)])
    return section(
        AGREEMENT,
        "agreement",
        "Largest relative difference over 256 test images of one trained DEQ, float32 / float64, "
        f"solved to relative residuals of {single['rtol']:g} / {double['rtol']:g}.",
        *table(("", *names[:-1]), rows),
    )


def gains() -> str:
    """Success on random maps that do not contract."""
    return _success(
        GAINS, 50, "percent solved of 200 draws a gain, 40 for the peers (median evaluations, "
        "Jacobian products included)",
    )  # fmt: skip


def large() -> str:
    """The same in ten times the unknowns, of fewer draws."""
    return _success(
        f"{GAINS} of 512 unknowns", 512, "percent solved of 200 draws a gain, 50 for Robust, 20 "
        "for the tracker, 10 for the peers (median evaluations, Jacobian products included)",
    )  # fmt: skip


def _success(title: str, n: int, what: str) -> str:
    name = f"tanh_suite_{n}_float64"
    body = result(name)["result"]["by gain"]
    names = [name for name in next(iter(body.values())) if all(name in r for r in body.values())]

    def cell(row: dict[str, Any]) -> str:
        evals = row["median evaluations of a success"]
        return f"{row['solved %']:.4g}" + (f" ({evals:.0f})" if evals else "")

    return section(
        title,
        name,
        f"Random z = tanh(W z + b), {n} unknowns, from z = 0, float64, to a relative residual of "
        f"1e-6: {what}.",
        *table(
            ("solver", *(f"gain {gain}" for gain in body)),
            ([name, *(cell(found[name]) for found in body.values())] for name in names),
        ),
    )


def conformance() -> str:
    """Who solves hard systems, and by how many evaluations."""
    if not measured("conformance"):
        return ""
    body = result("conformance")
    systems = body["config"]["systems"]
    rows = [
        (name, *(shown(cells[each]) for each in systems)) for name, cells in body["result"].items()
    ]
    return section(
        CONFORMANCE,
        "conformance",
        f"F(z) = 0 as z = z - F(z), float64, from {body['config']['starts']} starts, the standard "
        "one and draws about it, as one batch: how many end at ||F|| <= 1e-8 (median evaluations, "
        "products with the Jacobian included; of F alone for scipy, which differences).",
        *table(("solver", *systems), rows),
    )


def bench() -> str:
    """Forward and backward beside torchdeq."""
    body = result("bench")["result"]
    forward, backward = body["forward"], body["backward"]

    def cost(row: dict[str, Any]) -> tuple[str, str]:
        late = "" if row["converged"] else " (not converged)"
        return f"{row['ms']['median']:.2f}", f"{row['evaluations']}{late}"

    heads = [text for case in forward for text in (f"{case}: ms", "evaluations")]
    solved = [
        [name, *(cell for case in forward.values() for cell in cost(case["solvers"][name]))]
        for name in next(iter(forward.values()))["solvers"]
    ]
    errors = [text for case in backward for text in (f"{case}: ms", "error of dW")]
    differentiated = [
        [name]
        + [
            cell
            for case in backward.values()
            for cell in (f"{case[name]['ms']['median']:.2f}", f"{case[name]['error']:.0e}")
        ]
        for name in next(iter(backward.values()))
    ]
    over, hard = body["overhead"], body["one hard sample among 256"]
    ratios = [f"{r['ratio']:.2f} ({name}, f {r['f, ms']:.2f} ms)" for name, r in over.items()]
    return section(
        BENCH,
        "bench",
        "torchdeq 0.1.0, f(z) = tanh(W z + U x + b), batch 64, width 256, W symmetric positive, "
        "float32, milliseconds (median) at a verified relative residual of 1e-4.",
        *table(("forward", *heads), solved),
        "",
        *table(("backward", *errors), differentiated),
        "",
        f"Anderson's time over evaluations x f: {', '.join(ratios)}. One hard sample among 256 "
        f"({hard['evaluations of the hard sample']} evaluations, the easy "
        f"{hard['evaluations of the easy samples']}): {hard['ratio']:.2f} x the time of 256 easy "
        "ones.",
    )


PORTING = "torchdeq's kinds of problems, through torchdeq and through the adapter"


def porting() -> str:
    """What an adapted script costs beside the one that it was."""
    if not measured("porting"):
        return ""
    body = result("porting")
    rows = [
        (
            kind, solver, library, f"{r['evaluations']:.0f}", f"{r['forward, ms']:.1f}",
            f"{r['step, ms']:.1f}", f"{r['residual']:.0e}", f"{r['gradient error']:.0e}",
        )
        for kind, found in body["result"]["problems"].items()
        for solver, both in found.items()
        for library, r in both.items()
    ]  # fmt: skip
    head = ("problem", "solver", "by", "evaluations", "forward, ms", "step, ms", "residual",
            "gradient error")  # fmt: skip
    return section(
        PORTING,
        "porting",
        f"torchdeq {body['result']['torchdeq']}, exact gradients, to a relative "
        f"{body['config']['tolerance']:g} in single precision; the residual is the worst, measured "
        "anew, the gradient's error is against double precision.",
        *table(head, rows),
    )
