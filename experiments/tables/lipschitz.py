"""Networks with a proved Lipschitz constant: what is certified, and whether fine-tuning helps."""

from __future__ import annotations

from typing import Any

from experiments.results import RESULTS

from .markdown import Row, result, section, table

HEADS = ("clean", "36/255", "72/255", "108/255", "255/255")

# lipschitz.md's anchors: the authors' tables of each method, CIFAR-10, 2-norm, no extra data
# unless named. ConvNetM: Boissin et al. and the methods' releases, 24 hours of training each.
PUBLIC = (
    ("SLL, XL (Araujo et al. 2023)", "73.3", "65.8", "58.4", "51.3", "27.3"),
    ("AOL, L (Prach & Lampert 2022)", "71.6", "64.0", "56.4", "49.0", "23.7"),
    ("CPL, XL (Meunier et al. 2022)", "78.5", "64.4", "48.0", "33.0", ""),
    ("LiResNet (generated data)", "87.0", "78.1", "66.6", "53.5", ""),
    ("ConvNetM: SOC, 24 h", "76.9", "66.3", "53.4", "40.0", "6.7"),
    ("ConvNetM: CPL, 24 h", "76.7", "65.1", "51.5", "38.1", "5.5"),
    ("ConvNetM: SLL, 24 h", "75.3", "62.8", "48.9", "35.8", "4.8"),
    ("ConvNetM: AOL, 24 h", "73.4", "61.0", "47.1", "34.7", "4.9"),
)
DIFFERS = (
    "published and not run here: other sizes, hours of training instead of minutes, and, for the "
    "ConvNetM rows, MaxMin, which sorts pairs of neurons and is no slope in [0, 1] for each, so "
    "that `to_lben` and `certify_lipschitz` refuse these networks as they stand"
)


def lben(name: str, title: str) -> str:
    """Certified accuracy before and after fine-tuning; nothing where it has not been measured."""
    if not (RESULTS / f"{name}.json").exists():
        return ""
    body = result(name)
    found = body["result"]
    rows: list[Row] = [
        (row["part"], *(_band(row[head]) for head in HEADS), f"{row.get('seconds', 0):.0f}",
         f"{row['seconds to certify']:.0f}", _attack(row["attack"]))
        for row in found["rows"]
    ]  # fmt: skip
    if body["config"]["dataset"] == "cifar10":
        rows += [(f"public: {first}", *rest, "", "", "") for first, *rest in PUBLIC]
    lines = [
        *table(("network", *(f"{h} (%)" for h in HEADS), "s to train", "s to certify",
                "classes changed by an attack inside the balls"), rows),
        "",
    ]  # fmt: skip
    if body["config"]["dataset"] == "cifar10":
        lines += [f"The public rows are {DIFFERS}.", ""]
    lines += [*table(("difference, points [95% band], p", *HEADS, "verdict"), _pairs(found)), ""]
    lines += [
        '"Improved" is asked at the four radii together: McNemar\'s exact test at 5% over all '
        f"{found['comparisons']} comparisons of the table (Bonferroni)."
    ]
    return section(
        title,
        name,
        f"{found['data'].capitalize()}; deterministic certificates in the 2-norm, in double "
        "precision, with exact 95% bands. `tuned` is the LBEN of the explicit network trained "
        "further at the rate named, `penalty` with the penalty that keeps its structure, `longer` "
        "the explicit network trained further by the same steps.",
        *lines,
    ).strip()


def checks() -> str:
    """What bounded networks promise, as measured; nothing where it has not been."""
    name = "lben_checks"
    if not (RESULTS / f"{name}.json").exists():
        return ""
    found = {part: body["found"] for part, body in result(name)["result"].items()}
    lines: list[str] = []
    if "gains" in found:
        rows: list[Row] = [
            (structure, f"{r['proved']:.4f}", f"{r['sampled']:.4f}", f"{r['maximised']:.4f}",
             f"{r['tightness']:.4f}", r["above"])
            for structure, r in found["gains"]["structures"].items()
        ]  # fmt: skip
        head = ("structure, after 25 steps of Adam", "proved", "sampled", "maximised", "tightness",
                "above what is proved")  # fmt: skip
        lines += [
            f"The largest of {found['gains']['pairs']:,} sampled gains, and of as many pairs of an "
            "ascent on the gain, beside the constant that is proved.", "", *table(head, rows), "",
        ]  # fmt: skip
    if "rates" in found:
        rows = [
            (splitting, f"{r['predicted rate, median']:.4f}", f"{r['worst measured, median']:.4f}",
             f"{r['largest measured over predicted']:.4f}",
             *(_iterations(r, step) for step in ("best", "0.1", "1")))
            for splitting, r in found["rates"]["splittings"].items()
        ]  # fmt: skip
        head = ("splitting", "proved rate", "worst step of 50", "largest measured over proved",
                "iterations, step of the best proved rate", "step 0.1", "step 1")  # fmt: skip
        lines += [
            f"Contraction in the metric of L on {found['rates']['networks']} drawn LBENs, medians; "
            "iterations to a residual of 1e-8.", "", *table(head, rows), "",
        ]  # fmt: skip
    if "program" in found:
        rows = [
            (which, f"{r['trivial']:.4g}", f"{r['proved']:.6g}", f"{r['sampled']:.3g}",
             f"{r['seconds']:.1f}")
            for which, r in found["program"].items()
        ]  # fmt: skip
        head = ("random monDEQ", "‖U‖ ‖V‖ / m", "LipSDP, repaired and proved", "sampled", "s")
        lines += [*table(head, rows), ""]
    if "impulse" in found:
        all_on = {k: r["all neurons on"] for k, r in found["impulse"].items()}
        said = ", ".join(f"{k} {low:.3f} to {high:.6f}" for k, (low, high) in all_on.items())
        lines += [f"Singular values of convolutional layers with all neurons on: {said}.", ""]
    if "intervals" in found:
        boxes = found["intervals"]
        lines += [
            f"Of {boxes['samples']:,} points of boxes about monDEQ inputs {boxes['outside']} have "
            "an output outside its interval."
        ]
    about = "Layers with a proved Lipschitz constant of 1, and equilibria, in double precision."
    return section("What bounded networks promise", name, about, *lines).strip()


def _iterations(row: dict[str, Any], step: str) -> str:
    count, failed = row["iterations to 1e-8, median"][step], row["did not converge"][step]
    return f"{count:.0f}" + (f" ({failed} diverged)" if failed else "")


def _band(share: list[float]) -> str:
    return f"{share[0]:.1f} [{share[1]:.1f}, {share[2]:.1f}]"


def _attack(row: dict[str, int]) -> str:
    return f"{row['found']} of {row['attacked']}"


def _pairs(found: dict[str, Any]) -> list[Row]:
    return [
        (name, *(_difference(tests[head]) for head in HEADS), found["verdicts"][name])
        for name, tests in found["paired"].items()
    ]


def _difference(test: dict[str, Any]) -> str:
    low, high = test["band"]
    return f"{test['points']:+.2f} [{low:+.2f}, {high:+.2f}], {test['p']:.1g}"
