"""What is certified, at what cost, and how often falsely."""

from __future__ import annotations

from typing import Any

from .markdown import Row, measured, result, section, table

COVERAGE = "False certificates"
CERTIFIED = "Certified by policy"
TRAINED = (
    "The models are trained to be verifiable (deq and homoode with `--contraction 0.99`, "
    "monotone with `--monotonicity 0.5 --lr 0.001`), which is not the default: a deq or "
    "homoode of default training has no verified votes, and none of their speed-up."
)


def certified(name: str, what: str) -> str:
    """Certified accuracy by policy, and what each costs beside the cold full solve."""
    body = result(name)
    config = body["config"]
    rows: list[Row] = []
    for model, row in body["result"]["models"].items():
        for policy, run in row["runs"].items():
            accuracy = " / ".join(f"{100 * a:.0f}" for a in run["certified accuracy"])
            gap = 100 * run["largest difference in certified accuracy"]
            rows.append((model, policy, accuracy, *_cost(run), f"{gap:+.0f}"))
        rows += decided(model, row["decide"])
    head = (
        "model",
        "policy, warm start",
        "certified at 0 / .25 / .5 / .75 / 1 (%)",
        "evaluations a sample",
        "fewer",
        "s an image",
        "faster",
        "largest difference (points)",
    )
    return section(
        f"{CERTIFIED}: {what}",
        name,
        f"Trained with noise; {config['images']} test images, {config['samples']:,} samples each, "
        "alpha 0.001. `converged none` is the cold run: every sample solved from the model's own "
        "start by Anderson to 1e-4.",
        f"- {TRAINED}",
        "",
        *table(head, rows),
    )


def _cost(run: dict[str, Any]) -> tuple[str, str, str, str]:
    """Return evaluations and seconds, each with the cold run's over these."""
    return (
        f"{run['evaluations a sample']:.2f}",
        f"{run['cold evaluations over these']:.1f}x",
        f"{run['seconds an image']:.2f}",
        f"{run['cold seconds over these']:.1f}x",
    )


def decided(model: str, asked: dict[str, Any]) -> list[Row]:
    """Return the rows of decisions at one radius, each beside the same task done cold."""

    def found(run: dict[str, Any], cold: float) -> str:
        return (
            f"{100 * run['certified and correct']:.0f} (cold run: {100 * cold:.0f}), "
            f"{run['samples an image']:.0f} samples"
        )

    name = f"decide r = {asked['radius']:g}"
    whole = asked["whole cold run at that radius"]
    return [
        (model, f"{name}, {policy}", found(run, whole), *_cost(run), "")
        for policy, run in asked["runs"].items()
    ]


def faster() -> str:
    """Today's certification beside the first version's cold run; "" where it was not measured."""
    name = "certify_speed"
    if not measured(name):
        return ""
    body = result(name)
    config, rows, told = body["config"], [], body["result"]["verdict"]
    for case, row in body["result"]["configurations"].items():
        cold, now = (row["radius"][which] for which in ("cold, before", "now"))
        alike, asked, verdicts = row["agreement"], row["decide"], row["verdicts"]
        costs = [(cold, now), (asked["cold, before"], asked["now"])]
        whole, bet = (
            f"{1e3 * a['CPU seconds an image']:.0f} → {1e3 * b['CPU seconds an image']:.0f}"
            for a, b in costs
        )
        fewer = [each["evaluations an image"] / each["samples an image"] for each in (cold, now)]
        radius, bets, same = (
            f"{row['faster'][k]['CPU']:.1f}x" for k in ("radius", "decide", "decide, same n0")
        )
        rows.append(
            (
                case,
                f"{whole} ({1e3 * row['limit, CPU seconds an image']:.0f})",
                radius,
                f"{fewer[0]:.1f} → {fewer[1]:.2f}",
                f"{alike['same class']} of {alike['images']}, {alike['votes beyond chance']}",
                bet,
                f"{bets} ({same})",
                f"{verdicts['as cold, same n0 and now'][1]} of {verdicts['images']}",
            )
        )
    whole = f"{told['radius, at least 4 times']} of {told['configurations']}"
    asked = f"{told['decide, at least 5 times']} of {told['configurations']}"
    lowest, highest = told["radius, at the limit"]
    return section(
        "Certification beside the first version's cold run",
        name,
        f"Milliseconds of the processor an image, commit {config['before']} → today, the same "
        f"models and images in turn: the largest radius of {config['images']} images by "
        f"{config['samples']:,} samples, and decisions at a radius of sigma about "
        f"{config['deciding']}, {config['group']} at a time. Cold is every sample solved from the "
        "model's own start by Anderson to 1e-4; today's votes are verified. Noise is drawn "
        "otherwise since, so that certificates agree up to chance: the same class, and of how many "
        "images the votes differ by more (Fisher's test, 1 in 1,000 for all images together). A "
        f"decision selects its class by {config['selecting']} samples today; in brackets by the "
        f"{config['n0']} of the first version. Radii at least 4 times as fast: {whole}, the least "
        f"{told['radius, least']:.1f}; the noise, the stem and one evaluation of every sample (in "
        f"brackets) would allow {lowest:.1f} to {highest:.1f}; decisions at least 5 times: "
        f"{asked}, the least {told['decide, least']:.1f}.",
        *table(
            (
                "model",
                "ms an image (limit)",
                "faster",
                "evaluations a sample",
                "same class, votes apart",
                "decide, ms",
                "faster (same n0)",
                "same verdict",
            ),
            rows,
        ),
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
            cost, seconds = row.get("evaluations a sample"), row["seconds an image"]
            spent = "" if cost is None else f"{cost:.2f}"
            rows.append(
                (f"{whose}: {name}", accuracy, f"{seconds:.2f}", f"{full / seconds:.1f}x", spent)
            )
    return section(
        "Serialized randomized smoothing",
        "srs",
        "Sigma 0.5, as published (Gao et al. 2024, CIFAR-10) and here.",
        *table(
            (
                "",
                f"certified accuracy (%) at {radii}",
                "s an image",
                "faster",
                "evaluations a sample",
            ),
            rows,
        ),
        "",
        *(f"- differs: {line}" for line in found["differs"]),
    )


def coverage() -> str:
    """False certificates where the true probability is known."""
    body = result("coverage")
    config, found = body["config"], body["result"]
    scenarios = found["scenarios"]
    rows = [
        (
            name,
            "yes" if rule["sound"] else "no",
            rule["asks for"],
            *(rule["false certificates"].get(column, "") for column in scenarios),
        )
        for name, rule in found["rules"].items()
    ]
    return section(
        COVERAGE,
        "coverage",
        f"In {config['runs']:,} runs where the true probability is known, at alpha = "
        f"{config['alpha']:g} with N = {config['samples']:,} and {config['audit']} audited. G is "
        f"certified, S was computed. A sound rule has {found['band ends at']} at most (the "
        f"{100 * config['quantile']:g}% quantile of the binomial law); it is run where what it "
        "asks for holds, an unsound one where that does not.",
        *(f"- {name}: {meaning}" for name, meaning in scenarios.items()),
        "",
        *table(("rule", "sound", "asks for", *scenarios), rows),
    )
