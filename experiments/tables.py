"""Write the README's figures from the committed results, and only from these.

python experiments/tables.py            (rewrites what stands between the README's two marks)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- measured -->", "<!-- /measured -->"


def result(name: str) -> dict[str, Any]:
    """Return experiments/results/NAME.json."""
    found: dict[str, Any] = json.loads((ROOT / f"experiments/results/{name}.json").read_text())
    return found


def measured() -> str:
    """Return the Markdown of all tables."""
    parts = (
        demo(),
        agreement(),
        gains(),
        bench(),
        fashion(),
        step(),
        certified("certify_digits", "the digits, images of 16 channels"),
        certified("certify_fashion_mnist", "Fashion-MNIST, vectors of 512 numbers"),
        srs(),
        coverage(),
    )
    return "\n\n".join(parts)


def source(name: str) -> str:
    """Say where a table's figures come from."""
    body = result(name)
    threads = "one thread" if body["threads"] == 1 else f"{body['threads']} threads"
    return (
        f"(`{body['command']}`, seed {body['seed']}, commit {body['commit']}, {threads} of "
        f"{body['device']}; [JSON](experiments/results/{name}.json))"
    )


def demo() -> str:
    """One set of weights under many forward passes."""
    body = result("demo")["result"]
    rows = [
        f"| {name} | {100 * row['accuracy']:.2f}% | {row['nfe']:.1f} | "
        f"{row['residual_median']:.1e} |"
        for name, row in body["forward passes"].items()
    ]
    return "\n".join(
        [
            "**One set of weights, many forward passes.** A rest-point HomoODE trained on the "
            f"built-in digits along rk4, then evaluated on {_samples(body)} test images "
            + source("demo"),
            "",
            "| forward pass | accuracy | evaluations of f | median relative residual |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _samples(body: dict[str, Any]) -> int:
    return int(next(iter(body["forward passes"].values()))["samples"])


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
        rows.append(f"| {a} | " + " | ".join(cells + [""] * (len(names) - 1 - i)) + " |")
    return "\n".join(
        [
            "**Every solver finds the same equilibrium.** Largest relative difference over "
            "256 test images of one trained DEQ, float32 / float64, solved to relative residuals "
            f"of {single['rtol']:g} / {double['rtol']:g} " + source("agreement"),
            "",
            "| | " + " | ".join(names[:-1]) + " |",
            "|---" * len(names) + "|",
            *rows,
        ]
    )


def gains() -> str:
    """Success on random maps that do not contract."""
    body = result("tanh_suite_50_float64")["result"]["by gain"]
    columns = list(body)
    names = [name for name in body[columns[0]] if all(name in body[gain] for gain in columns)]
    rows = []
    for name in names:
        cells = []
        for gain in columns:
            row = body[gain][name]
            evals = row["median evaluations of a success"]
            cells.append(f"{row['solved %']:.0f}" + (f" ({evals:.0f})" if evals else ""))
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(
        [
            "**Hard equilibria.** Random z = tanh(W z + b), 50 unknowns, from z = 0, float64, to a "
            "relative residual of 1e-6: percent solved of 200 draws a gain, 40 for the peers "
            "(median evaluations, Jacobian products included) " + source("tanh_suite_50_float64"),
            "",
            "| solver | " + " | ".join(f"gain {gain}" for gain in columns) + " |",
            "|---" * (len(columns) + 1) + "|",
            *rows,
        ]
    )


def bench() -> str:
    """Forward and backward beside torchdeq."""
    body = result("bench")["result"]
    lines = [
        "**Speed beside torchdeq 0.1.0**, f(z) = tanh(W z + U x + b), batch 64, width 256, W "
        "symmetric positive, float32, milliseconds (median) at a verified relative residual of "
        "1e-4 " + source("bench"),
        "",
        "| forward | " + " | ".join(f"{case}: ms | evaluations" for case in body["forward"]) + " |",
        "|---" * (1 + 2 * len(body["forward"])) + "|",
    ]
    for name in next(iter(body["forward"].values()))["solvers"]:
        cells = []
        for case in body["forward"].values():
            row = case["solvers"][name]
            late = "" if row["converged"] else " (not converged)"
            cells += [f"{row['ms']['median']:.2f}", f"{row['evaluations']}{late}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cases = body["backward"]
    lines += [
        "",
        "| backward | " + " | ".join(f"{case}: ms | error of dW" for case in cases) + " |",
        "|---" * (1 + 2 * len(cases)) + "|",
    ]
    for name in next(iter(cases.values())):
        cells = []
        for case in cases.values():
            cells += [f"{case[name]['ms']['median']:.2f}", f"{case[name]['error']:.0e}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    over, hard = body["overhead"], body["one hard sample among 256"]
    lines += [
        "",
        "Anderson's time over evaluations x f: "
        + ", ".join(f"{r['ratio']:.2f} ({name}, f {r['f, ms']:.2f} ms)" for name, r in over.items())
        + f". One hard sample among 256 ({hard['evaluations of the hard sample']} evaluations, the "
        f"easy {hard['evaluations of the easy samples']}): {hard['ratio']:.2f} x the time of 256 "
        "easy ones.",
    ]
    return "\n".join(lines)


def fashion() -> str:
    """Training on real images, killed and resumed."""
    body = result("fashion_mnist")["result"]
    solvers = ", ".join(
        f"{name} {100 * row['accuracy']:.2f}%" for name, row in body["forward passes"].items()
    )
    same = "the same bytes" if body["checkpoints identical"] else "OTHER bytes"
    return (
        "**Real images.** The rest-point HomoODE on 10,000 images of Fashion-MNIST, 3 epochs: "
        f"{100 * body['test accuracy']:.2f}% on the 10,000 test images in "
        f"{body['seconds']:.0f} s; a run killed with -9 after {body['killed after']} and resumed "
        f"ended with {same}. Its weights under other forward passes: {solvers} "
        + source("fashion_mnist")
    )


def step() -> str:
    """The CIFAR-10 training step."""
    body = result("cifar_step")["result"]
    rows = [
        f"| {name} | {r['forward, s']:.2f} | {r['step, s']:.2f} | "
        f"{r['evaluations forward']:.0f} | {r['peak memory, MiB']} |"
        for name, r in body.items()
    ]
    parameters = next(iter(body.values()))["parameters"]
    return "\n".join(
        [
            "**One training step of HomoODE as published** (CIFAR-10 configuration, "
            f"{parameters:,} parameters, batch 64, dopri5 at 1e-3, random images) "
            + source("cifar_step"),
            "",
            "| precision, gradient | forward, s | step, s | evaluations forward | peak MiB |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def certified(name: str, what: str) -> str:
    """Certified accuracy by policy, and what each costs beside the cold full solve."""
    body = result(name)
    config, found = body["config"], body["result"]
    rows = []
    for model, row in found["models"].items():
        for policy, run in row["runs"].items():
            accuracy = " / ".join(f"{100 * a:.0f}" for a in run["certified accuracy"])
            gap = 100 * run["largest difference in certified accuracy"]
            rows.append(
                f"| {model} | {policy} | {accuracy} | {run['evaluations a sample']:.2f} | "
                f"{run['cold evaluations over these']:.1f}x | {run['seconds an image']:.2f} | "
                f"{run['cold seconds over these']:.1f}x | {gap:+.0f} |"
            )
        rows += decided(model, row["decide"])
    return "\n".join(
        [
            f"**Certified by policy**: {what}, trained with noise; {config['images']} test images, "
            f"{config['samples']:,} samples each, alpha 0.001. `converged none` is the cold run: "
            "every sample solved from the model's own start by Anderson to 1e-4 " + source(name),
            "",
            *(f"- {line}" for line in reservations(body)),
            "",
            "| model | policy, warm start | certified at 0 / .25 / .5 / .75 / 1 (%) | evaluations "
            "a sample | fewer | s an image | faster | largest difference (points) |",
            "|---" * 8 + "|",
            *rows,
        ]
    )


def decided(model: str, asked: dict[str, Any]) -> list[str]:
    """Return the rows of decisions at one radius, each beside the same task done cold."""
    if "runs" not in asked:  # of a run before decisions were made cold, too
        return [
            f"| {model} | decide r = {asked['radius']:g} | "
            f"{100 * asked['certified and correct']:.0f} (cold run: "
            f"{100 * asked['cold run at that radius']:.0f}), {asked['samples an image']:.0f} "
            f"samples | | ({asked['cold evaluations over these']:.0f}x) | "
            f"{asked['seconds an image']:.3f} | ({asked['cold seconds over these']:.0f}x) | |"
        ]
    return [
        f"| {model} | decide r = {asked['radius']:g}, {policy} | "
        f"{100 * run['certified and correct']:.0f} (cold run: "
        f"{100 * asked['whole cold run at that radius']:.0f}), {run['samples an image']:.0f} "
        f"samples | {run['evaluations a sample']:.2f} | "
        f"{run['cold evaluations over these']:.1f}x | {run['seconds an image']:.3f} | "
        f"{run['cold seconds over these']:.1f}x | |"
        for policy, run in asked["runs"].items()
    ]


def reservations(body: dict[str, Any]) -> list[str]:
    """Say what the speed-ups of a table of certificates are of, and are not."""
    models = body["result"]["models"].values()
    lines = [
        "The models are trained to be verifiable (deq and homoode with `--contraction 0.99`, "
        "monotone with `--monotonicity 0.5 --lr 0.001`), which is not the default: a deq or "
        "homoode of default training has no verified votes, and none of their speed-up."
    ]
    if any("runs" not in row["decide"] for row in models):
        lines.append(
            "In brackets: `decide` answers for one radius and is compared with the cold run that "
            "finds the largest one, which is another task. Most of it is saved by stopping early, "
            "which a cold `decide` does as well. " + like_for_like()
        )
    images, whole = body["config"]["images"], 0.0
    for row in models:
        whole += images * sum(run["seconds an image"] for run in row["runs"].values())
    if body["seconds"] < whole:
        lines.append(
            f"Seconds an image were measured when each run was made. The JSON's own `seconds` "
            f"({body['seconds']:g}), times and commit are those of a later call that read these "
            "runs, made by the commits before it."
        )
    return lines


def like_for_like() -> str:
    """Say what verified votes save of a decision, beside the same decision made cold."""
    name = "certify_digits_decide"
    body = result(name)
    runs = [row["decide"]["runs"]["verified"] for row in body["result"]["models"].values()]
    fewer = [run["cold evaluations over these"] for run in runs]
    return (
        f"Beside a cold `decide`, verified votes take {min(fewer):.1f}x to {max(fewer):.1f}x fewer "
        f"evaluations on {body['config']['images']} images of the digits (commit {body['commit']}, "
        f"[JSON](experiments/results/{name}.json); other work ran on the machine, so that its "
        "seconds are no measure)."
    )


def srs() -> str:
    """Serialized randomized smoothing: the paper's table and ours."""
    found = result("srs")["result"]
    radii = " / ".join(f"{r:g}" for r in found["radii"])
    rows = []
    for whose in ("paper", "ours"):
        full = next(iter(found[whose].values()))["seconds an image"]
        for name, row in found[whose].items():
            accuracy = " / ".join(f"{a:.0f}" for a in row["accuracy at radii"])
            cost = row.get("evaluations a sample")
            rows.append(
                f"| {whose}: {name} | {accuracy} | {row['seconds an image']:.2f} | "
                f"{full / row['seconds an image']:.1f}x | {'' if cost is None else f'{cost:.2f}'} |"
            )
    return "\n".join(
        [
            "**Serialized randomized smoothing**, sigma 0.5, as published (Gao et al. 2024, "
            "CIFAR-10) and here " + source("srs"),
            "",
            f"| | certified accuracy (%) at {radii} | s an image | faster | evaluations a sample |",
            "|---|---|---|---|---|",
            *rows,
            "",
            *(f"- differs: {line}" for line in found["differs"]),
        ]
    )


def coverage() -> str:
    """False certificates where the true probability is known."""
    body = result("coverage")
    config, found = body["config"], body["result"]
    names = list(found["scenarios"])
    rows = [
        f"| {name} | {'yes' if rule['sound'] else 'no'} | {rule['asks for']} | "
        + " | ".join(str(rule["false certificates"].get(column, "")) for column in names)
        + " |"
        for name, rule in found["rules"].items()
    ]
    return "\n".join(
        [
            f"**False certificates** in {config['runs']:,} runs where the true probability is "
            f"known, at alpha = {config['alpha']:g} with N = {config['samples']:,} and "
            f"{config['audit']} audited. G is certified, S was computed. A sound rule has "
            f"{found['band ends at']} at most (the {100 * config['quantile']:g}% quantile of the "
            "binomial law); it is run where what it asks for holds, an unsound one where that "
            "does not " + source("coverage"),
            "",
            *(f"- {name}: {meaning}" for name, meaning in found["scenarios"].items()),
            "",
            "| rule | sound | asks for | " + " | ".join(names) + " |",
            "|---" * (len(names) + 3) + "|",
            *rows,
        ]
    )


def main() -> None:
    """Rewrite the README's tables."""
    path = ROOT / "README.md"
    head, rest = path.read_text().split(BEGIN)
    tail = rest.split(END)[1]
    path.write_text(f"{head}{BEGIN}\n\n{measured()}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
