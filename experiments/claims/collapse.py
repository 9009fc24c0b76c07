"""Neural collapse of DEQs (Sun & Shi 2024)."""

from __future__ import annotations

from .claim import Body, Claim, Found, Paper, Source, of_study, tens

STUDY = "python -m experiments.theory collapse"
RUNS = "python -m experiments.neural_collapse --fashion DIR --cifar10 DIR"
CONTROL = "deq - explicit-weak"


def ideal(body: Body) -> str:
    """Return the settings of the study."""
    s = body["result"]["settings"]
    return (
        f"free features, solved; networks that learn {s['most']} digits of a class, "
        f"{2 * s['steps']} steps"
    )


def balanced(body: Body) -> Found | None:
    """NC1 to NC4 of the DEQs of balanced classes."""
    rows = [peers["deq"] for name, peers in _cases(body) if "balanced" in name]
    if not rows:
        return None
    seeds, there, dual = (sum(row[k] for row in rows) for k in ("seeds", "vertices", "self-dual"))
    nc1 = [row["nc1"] for row in rows]
    return Found(
        f"Of {seeds} DEQs {there} have their means at the vertices of a simplex and {dual} are "
        f"self-dual, to 5%; NC1 {tens(nc1, digits=2)}; nearest mean and classifier differ on "
        f"{max(row['nc4'] for row in rows):.1%}",
        (all(row["nc4"] < 0.01 for row in rows), max(nc1) < 0.05, there == seeds, dual == seeds),
        _size(body),
    )


def bound(body: Body) -> Found | None:
    """Loss over its lower bound, balanced."""
    over = [peers["deq"]["objective"] / peers["deq"]["lower bound"]
            for name, peers in _cases(body) if "balanced" in name]  # fmt: skip
    if not over:
        return None
    return Found(
        f"Trained DEQs end at {tens(over, digits=2)} times the bound",
        (max(over) < 1.05,),
        _size(body),
    )


def unequal(body: Body) -> Found | None:
    """Vertices and self-duality of the DEQs of imbalanced classes."""
    rows = [peers["deq"] for _, peers in _unequal(body)]
    if not rows:
        return None
    seeds, there, dual = (sum(row[k] for row in rows) for k in ("seeds", "vertices", "self-dual"))
    nc3 = [row["nc3"] for row in rows]
    return Found(
        f"Of {seeds} DEQs {there} have their means at the vertices of a simplex and {dual} are "
        f"self-dual, to 5%; NC3 {tens(nc3, digits=2)}",
        (there == seeds, dual == seeds),
        _size(body),
    )


def minority(body: Body) -> Found | None:
    """Cosines of the minority's classifiers beside both peers."""
    sets = _unequal(body)
    if not sets:
        return None
    cosines = {
        peer: [of[peer]["minority_cosine"] for _, of in sets]
        for peer in ("deq", "explicit", "explicit-weak")
    }
    lower = {
        p: [a < b for a, b in zip(cosines["deq"], cosines[p], strict=True)]
        for p in ("explicit", "explicit-weak")
    }
    return Found(
        f"Cosine of the minority's classifiers (1: collapsed) {tens(cosines['deq'], digits=2)}, "
        f"of the explicit peer {tens(cosines['explicit'], digits=2)}; lower in "
        f"{sum(lower['explicit'])} of {len(sets)} training sets, and in "
        f"{sum(lower['explicit-weak'])} than the peer whose decay is weaker by the DEQ's gain",
        (all(lower["explicit"]), all(lower["explicit-weak"])),
        _size(body),
    )


def better(body: Body) -> Found | None:
    """Test accuracy when imbalanced, beside both peers."""
    verdicts = body["result"]["verdict"]
    said, tests = [], []
    for peer, name in (("deq - explicit", "the explicit peer"), (CONTROL, "that of weaker decay")):
        for data, row in verdicts.get(peer, {}).items():
            if (band := row["accuracy"]["band"]) is None:
                continue
            low, high = (100 * b for b in band)
            mean, verdict = 100 * row["accuracy"]["mean"], row["accuracy"]["verdict"]
            said.append(
                f"{data}, beside {name}: {mean:+.1f} [{low:+.1f}, {high:+.1f}] points, {verdict}"
            )
            tests.append(verdict == "better")
    return Found("; ".join(said), tuple(tests), _size(body)) if tests else None


def _cases(body: Body) -> list[tuple[str, Body]]:
    return [
        (name, case["peers"])
        for name, case in body["result"]["cases"].items()
        if "deq" in case["peers"]
    ]


def _unequal(body: Body) -> list[tuple[str, Body]]:
    """Return the peers of each imbalanced training set of which all are done."""
    return [
        (name, peers) for name, peers in _cases(body) if "balanced" not in name and len(peers) == 3
    ]


def _size(body: Body) -> str:
    config = body["config"]
    data = sorted(
        {name.split("-R")[0].removesuffix("-balanced") for name in body["result"]["cases"]}
    )
    return (
        f"{' and '.join(data)}, {config['most']:,} images of a large class, {config['steps']:,} "
        f"steps, {config['seeds']} seeds"
    )


SMALL = (
    "Fashion-MNIST beside CIFAR-10; a small convolutional backbone and a block of 64 neurons; the "
    "paper's backbone, optimiser and epochs are not known to us"
)

COLLAPSE = Paper(
    "Neural collapse in DEQs",
    "Haixiang Sun, Ye Shi (2024). *Understanding representation of deep equilibrium models from "
    "neural collapse perspective*. NeurIPS 2024.",
    "https://arxiv.org/abs/2410.23391",
    "theory.md",
    (
        Claim(
            "Neural collapse exists in DEQs when classes are balanced",
            "a theorem of layer-peeled DEQs; curves on CIFAR-10 and CIFAR-100",
            (
                Source(
                    "neural_collapse",
                    RUNS,
                    "(a) the nearest mean decides (NC4); (b) NC1 is below 0.05; (c) means at the "
                    "vertices and (d) classifiers along them, to 5%, in every network",
                    balanced,
                    SMALL,
                ),
                Source(
                    "theory_collapse",
                    STUDY,
                    "(a) of free features the optimum is a simplex, its classifiers the means; a "
                    "DEQ trained on digits has (b) NC4, (c) NC1, (d) NC2 and (e) NC3",
                    of_study(ideal, "... by a simplex", "deq: "),
                    picture="theory_collapse_curves.png",
                ),
            ),
        ),
        Claim(
            "The training loss has a lower bound, which is attained",
            "a theorem",
            (
                Source(
                    "theory_collapse",
                    STUDY,
                    "(a) attained by free features; (b) trained networks stay above",
                    of_study(ideal, "equal classes: the bound", "trained networks stay"),
                ),
                Source("neural_collapse", RUNS, "trained DEQs come within 5% of it", bound, SMALL),
            ),
        ),
        Claim(
            "With imbalanced classes the DEQ's features still converge to the vertices, and are "
            "self-dual",
            "under mild conditions",
            (
                Source(
                    "neural_collapse",
                    RUNS,
                    "every DEQ of imbalanced classes has (a) its means at the vertices and (b) "
                    "its classifiers along them, to 5%",
                    unequal,
                    SMALL,
                ),
            ),
        ),
        Claim(
            "Minority collapse is there, but a DEQ bears more imbalance than an explicit network",
            "an advantage of DEQs",
            (
                Source(
                    "neural_collapse",
                    RUNS,
                    "in every training set the minority's classifiers are less alike than (a) the "
                    "explicit peer's; (b) those of the explicit peer whose decay is weaker by the "
                    "DEQ's gain",
                    minority,
                    SMALL,
                ),
                Source(
                    "theory_collapse",
                    STUDY,
                    "of free features a larger gain collapses at a larger R",
                    of_study(ideal, "the gain of a DEQ delays"),
                    "a decay that is weaker by the gain delays it as much: the study shows that, "
                    "too",
                    "theory_collapse_minority.png",
                ),
            ),
        ),
        Claim(
            "A DEQ is more accurate than an explicit network when classes are imbalanced",
            "CIFAR-10 and CIFAR-100, R = 10, 50, 100, 3, 5 or 7 large classes of ten",
            (
                Source(
                    "neural_collapse",
                    RUNS,
                    "its mean accuracy is higher, beyond the 95% band of the seeds: asked of each "
                    "data set beside the explicit peer, and beside that of weaker decay",
                    better,
                    SMALL,
                ),
            ),
        ),
        Claim(
            "Both settings give the same on CIFAR-100",
            "both settings",
            untested="the data set is not here (`--cifar100 DIR` reads it)",
        ),
    ),
)
