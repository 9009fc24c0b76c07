"""Infinitely wide DEQs (Gao et al. 2023)."""

from __future__ import annotations

import math

from .claim import Body, Claim, Found, Paper, Source, of_study, studied, tens

STUDY = "python -m experiments.theory nngp"
FASHION = "python -m experiments.nngp --data DIR"


def digits(body: Body) -> str:
    """Return the settings of the study."""
    s = body["result"]["settings"]
    return f"digits of scikit-learn, {s['images']:,} learnt, {s['networks']:,} random networks"


def gaussian(body: Body) -> Found:
    """Outputs against the Gaussian, and the covariance against width."""
    r, networks = body["result"], body["config"]["networks"]
    outputs, slopes = r["outputs"], {k: v["slope"] for k, v in r["width"].items()}
    p = min(min(*each["p"], each["p of joint"]) for each in outputs.values())
    correlation = max(each["largest correlation"] for each in outputs.values())
    ks = ", ".join(f"{k} {max(v['ks']):.4f}" for k, v in outputs.items())
    return Found(
        f"Kolmogorov-Smirnov distance of three outputs from the predicted normal at most {ks} "
        f"(least p {p:.3f}), correlation {correlation:.3f}; squared covariance error falls like n "
        "to the power " + ", ".join(f"{s:.2f} ({k})" for k, s in slopes.items()),
        (
            p > 1e-3,
            correlation < 4 / math.sqrt(networks),
            all(-1.1 <= s <= -0.9 for s in slopes.values()),
        ),
        f"{networks:,} random networks of width 1,000, widths up to "
        f"{body['config']['covariance_widths'][-1]:,}",
    )


def definite(body: Body) -> Found:
    """Least eigenvalue of the output kernel on real images."""
    rows = {k.split(",")[0]: v for k, v in body["result"]["ridges"].items() if k.startswith("nngp")}
    least = rows["nngp"]["least eigenvalue"]
    return Found(
        f"Least eigenvalue of the kernel {least:.1e}",
        (least > 0,),
        f"{rows['nngp']['inputs']:,} images of Fashion-MNIST, ReLU",
    )


def degenerate(body: Body) -> Found | None:
    """The study's own eigenvalues: "any" fails where the counterexample is there."""
    found = studied(body, "distinct inputs", "... unless phi is odd")
    if len(found) < 2:
        return None
    positive, odd = found
    return Found(
        f"{positive['says']}: {positive['found']}; {odd['says'].removeprefix('... ')}: "
        f"{odd['found']}",
        (positive["holds"], not odd["holds"]),
        digits(body),
    )


def benign(body: Body) -> Found:
    """Fit and test accuracy without a ridge, beside the best ridge; trained DEQs."""
    r = body["result"]
    rows = {
        k: (v["rows"][0], max(row["test"] for row in v["rows"])) for k, v in r["ridges"].items()
    }
    trained = [
        (part["train"], ended)
        for row in r["table"]
        if "DEQ" in row["model"]
        for share, part in row.items()
        if share != "model"
        for ended in part["ended by"]
    ]
    fits, ends = [fit for fit, _ in trained], sorted({ended for _, ended in trained})
    kept = {k: row["test"] >= best - 0.01 for k, (row, best) in rows.items()}
    said = "; ".join(
        f"{k}: {row['test']:.1%} of the best ridge's {best:.1%}" for k, (row, best) in rows.items()
    )
    return Found(
        f"Both kernels fit {min(row['train'] for row, _ in rows.values()):.0%} of what is learnt; "
        f"test accuracy {said}; trained DEQs fit {tens([100 * f for f in fits], '%')} (ended by: "
        f"{', '.join(ends)})",
        (
            all(row["train"] == 1 for row, _ in rows.values()),
            all(v for k, v in kept.items() if ", 0%" in k),
            all(v for k, v in kept.items() if ", 0%" not in k),
            min(fits) > 0.999,
        ),
        f"{body['config']['images']:,} images of Fashion-MNIST, {body['config']['test_images']:,} "
        "to test",
    )


NNGP = Paper(
    "Wide DEQs as Gaussian processes",
    "Tianxiang Gao, Xiaokai Huo, Hailiang Liu, Hongyang Gao (2023). *Wide neural networks as "
    "Gaussian processes: lessons from deep equilibrium models*. NeurIPS 2023.",
    "https://arxiv.org/abs/2310.10767",
    "theory.md",
    (
        Claim(
            "The output of an infinitely wide DEQ is a Gaussian process",
            "Kolmogorov-Smirnov distance of one output of 10,000 networks of width 1,000: 0.0061 "
            "(ReLU), 0.0049 (tanh), against the sample's own variance",
            (
                Source(
                    "nngp",
                    FASHION,
                    "(a) no test rejects normality with the predicted covariance at p = 1e-3; (b) "
                    "outputs are uncorrelated to 4 standard errors; (c) the slope of the "
                    "covariance's squared error against width is -1 to a tenth",
                    gaussian,
                    "several outputs jointly, against the predicted variance",
                ),
                Source(
                    "theory_nngp",
                    STUDY,
                    "the same, of fewer networks",
                    of_study(
                        digits,
                        "relu: n x squared",
                        "tanh: n x squared",
                        "relu: outputs",
                        "tanh: outputs",
                    ),
                    picture="theory_nngp_limit.png",
                ),
            ),
        ),
        Claim(
            "Depth and width commute for a DEQ, and do not for a plain network",
            "a theorem and its contrast",
            (
                Source(
                    "theory_nngp",
                    STUDY,
                    "at depth = width (a) the DEQ's kernel nears its limit faster than n^-0.35 "
                    "and keeps inputs apart; (b) the plain network's does neither",
                    of_study(digits, "width and depth commute", "... and not for a plain"),
                    "random networks at one pair of digits",
                    "theory_nngp_exchange.png",
                ),
            ),
        ),
        Claim(
            "The kernel's least eigenvalue is positive for any pairwise distinct inputs",
            "a theorem",
            (
                Source(
                    "theory_nngp",
                    STUDY,
                    "(a) positive on digits, at every depth; (b) no counterexample: an odd "
                    "activation, with x and -x among the inputs, is one",
                    degenerate,
                    "the paper's assumptions on the activation may exclude it; its notebook uses "
                    "tanh, which is odd",
                    "theory_nngp_eigenvalues.png",
                ),
                Source("nngp", FASHION, "positive", definite),
            ),
        ),
        Claim(
            "A perfect fit of the training data keeps generalisation: benign overfitting",
            "said of wide networks, and of DEQs by the theorems above",
            (
                Source(
                    "nngp",
                    FASHION,
                    "(a) the kernels fit all, wrong classes among them; test accuracy stays "
                    "within a point of the best ridge's (b) with true classes, (c) with a fifth "
                    "of them wrong; (d) so do trained DEQs fit, of every width",
                    benign,
                    "the best ridge is chosen by the test images; finite DEQs have some minutes",
                    "theory_nngp_learning.png",
                ),
                Source(
                    "theory_nngp",
                    STUDY,
                    "each kernel fits all and stays within a point of its best ridge, with true "
                    "classes and with a fifth of them wrong",
                    of_study(digits, "nngp, ", "ntk, "),
                    picture="theory_nngp_digits.png",
                ),
            ),
        ),
    ),
)
