"""Lipschitz-bounded equilibrium networks (Havens et al. 2023)."""

from __future__ import annotations

import re

from .claim import Body, Claim, Found, Paper, Source

RADII = ("36/255", "72/255", "108/255", "255/255")
EXPLICIT = ("cpl", "sll", "aol", "sandwich")


def same(body: Body) -> Found | None:
    """Whether an LBEN certifies what its explicit network does."""
    rows = _rows(body)
    kinds = [k for k in EXPLICIT if {f"{k} explicit", f"{k} lben"} <= set(rows)]
    if not kinds:
        return None
    pairs = [(rows[f"{k} explicit"], rows[f"{k} lben"]) for k in kinds]
    gap = max(abs(a[r][0] - b[r][0]) for a, b in pairs for r in ("clean", *RADII))
    constant = max(b["constant before the head"] for _, b in pairs)
    return Found(
        f"{', '.join(kinds)}: certified accuracies of network and LBEN differ by {gap:.2f} points "
        f"at most, over {pairs[0][0]['images']:,} images; the largest proved constant is 1 + "
        f"{constant - 1:.0e}",
        (gap <= 0.05, constant <= 1 + 1e-6),
        _size(body),
    )


def gains(body: Body) -> Found | None:
    """Whether a pair of inputs exceeds a proved constant."""
    part = body["result"].get("gains")
    if part is None:
        return None
    rows = part["found"]["structures"]
    above = sum(row["above"] for row in rows.values())
    tight = ", ".join(
        f"{name} {row['tightness']:.3f}" for name, row in rows.items() if "," not in name
    )
    return Found(
        f"Of {part['found']['pairs']:,} pairs sampled and as many maximised of each of "
        f"{len(rows)} structures, {above} exceed the proved constant; the largest gain found over "
        f"it: {tight}",
        (above == 0,),
        "layers of 12 neurons and small images, after 25 steps of Adam, in double precision",
    )


def tuned(body: Body) -> Found | None:
    """In how many structures fine-tuning improves beside both rivals."""
    said = body["result"]["verdicts"]
    kinds = sorted({name.split()[0] for name in said})
    if not kinds:
        return None

    def improved(kind: str) -> bool:
        ways = {name.split(" - ")[0] for name in said if name.startswith(f"{kind} ")}
        return any(
            all(v == "improved" for n, v in said.items() if n.split(" - ")[0] == way)
            for way in ways
        )

    count = {v: list(said.values()).count(v) for v in ("improved", "no difference seen", "worse")}
    better = [kind for kind in kinds if improved(kind)]
    return Found(
        f"Improved in {len(better)} of {len(kinds)} structures ({', '.join(kinds)}); of "
        f"{len(said)} "
        "comparisons " + ", ".join(f"{n} {v}" for v, n in count.items()),
        tuple(kind in better for kind in kinds),
        _size(body),
    )


def penalty(body: Body) -> Found | None:
    """Whether the penalty certifies more than no penalty, beyond the bands of both."""
    rows = _rows(body)
    pairs = [(rows[f"{name} penalty"], rows[name]) for name in rows if f"{name} penalty" in rows]
    if not pairs:
        return None
    apart = [a[r][0] - b[r][0] for a, b in pairs for r in RADII]
    beyond = [any(a[r][1] > b[r][2] for r in RADII) for a, b in pairs]
    return Found(
        f"With the penalty {min(apart):+.1f} to {max(apart):+.1f} points of certified accuracy, "
        f"over {len(pairs)} fine-tunings and {len(RADII)} radii; more, beyond both bands, in "
        f"{sum(beyond)}",
        tuple(beyond),
        _size(body),
    )


def scratch(body: Body) -> Found | None:
    """The best fine-tuned LBEN beside LBEN and monDEQ from scratch."""
    rows = _rows(body)
    others = ["lben scratch", "monotone scratch"]
    best = max((k for k in rows if " tuned " in k), key=lambda k: _mean(rows[k]), default=None)
    if best is None or not set(others) <= set(rows):
        return None
    said = ", ".join(f"{k} {_four(rows[k])}" for k in (best, *others))
    return Found(
        f"Certified at {' / '.join(RADII)}, %: {said}",
        tuple(all(rows[best][r][1] > rows[k][r][2] for r in RADII) for k in others),
        _size(body),
    )


def _rows(body: Body) -> dict[str, Body]:
    return {row["part"]: row for row in body["result"]["rows"]}


def _mean(row: Body) -> float:
    return float(sum(row[r][0] for r in RADII) / len(RADII))


def _four(row: Body) -> str:
    return " / ".join(f"{row[r][0]:.1f}" for r in RADII)


def _thousands(text: str) -> str:
    return re.sub(r"\d{4,}", lambda n: f"{int(n[0]):,}", text)


def _size(body: Body) -> str:
    sizes, course = body["config"]["sizes"], body["config"]["course"]
    long = f"{course['seconds']:.0f} s" if course["seconds"] else f"{course['steps']:,} steps"
    return (
        f"{_thousands(body['result']['data'])}; {sizes['channels']} channels, depth "
        f"{sizes['depth']} and {sizes['features']} features, {long} from scratch, "
        f"{body['config']['tuned']['steps']} of fine-tuning"
    )


RESULTS = {
    "lben_fashion_mnist": "python -m experiments.lben --preset fashion --data DIR",
    "lben_small": "python -m experiments.lben --preset small --data DIR",
    "lben_cifar10": "python -m experiments.lben --preset cifar --data DIR",
    "lben_cifar10_small": "python -m experiments.lben --preset cifar-small --data DIR",
    "lben_authors": "python -m experiments.lben --preset authors --data DIR --minutes 6",
    "lben_digits": "python -m experiments.lben --preset digits",
}
SMALLER = (
    "much smaller networks and minutes of training, not 1,000 epochs of depth 4, 8 channels, "
    "kernel 5 and 512 features; certificates that count the solver's error, and V^T V for the V V "
    "of its code, with which the inequality fails after a step of Adam"
)


def everywhere(rule: str, read: object, differs: str = SMALLER) -> tuple[Source, ...]:
    """Return a source for every size of the experiment."""
    return tuple(Source(name, command, rule, read, differs) for name, command in RESULTS.items())  # type: ignore[arg-type]


LBEN = Paper(
    "LBEN",
    "Aaron J. Havens, Alexandre Araujo, Siddharth Garg, Farshad Khorrami, Bin Hu (2023). "
    "*Exploiting connections between Lipschitz structures for certifiably robust deep equilibrium "
    "models*. NeurIPS 2023.",
    "https://openreview.net/forum?id=8F3Lutda7R",
    "lipschitz.md",
    (
        Claim(
            "CPL, SLL, AOL, Sandwich and monDEQ are LBENs with the Lipschitz constant that they "
            "prescribe",
            "a theorem a structure",
            (
                *everywhere(
                    "(a) network and LBEN certify equally many images at every radius, to 0.05 "
                    "points; (b) the LBEN's proved constant before the head is 1",
                    same,
                    "monDEQ has no explicit network to start from: its map and matrix inequality "
                    "are tested, with those of 1,000 drawn networks, in tests/lipschitz",
                ),
                Source(
                    "lben_checks",
                    "python -m experiments.lben_checks",
                    "no pair of inputs has a gain above the proved constant",
                    gains,
                    "tightness is ours to report; the paper compares none",
                ),
            ),
        ),
        Claim(
            "Fine-tuning as an LBEN improves the certified accuracy",
            "improved on CIFAR-10 and CIFAR-100 from SLL, on MNIST from monDEQ (its tables were "
            "not at hand)",
            everywhere(
                "a structure counts where one way of fine-tuning is improved beside the explicit "
                "network and beside that trained further by as many steps: McNemar's test over "
                "the test images at 5% over all comparisons",
                tuned,
            ),
        ),
        Claim(
            "The regularisation that preserves the structure matters",
            "part of the method",
            everywhere(
                "a fine-tuning counts where, at a radius, it certifies more with the penalty than "
                "without, beyond the exact 95% bands of both",
                penalty,
            ),
        ),
        Claim(
            "It beats monDEQ and LBEN that are trained from scratch",
            "better than both",
            everywhere(
                "the fine-tuned LBEN that certifies most is above (a) LBEN and (b) monDEQ from "
                "scratch at all four radii, beyond the bands",
                scratch,
            ),
        ),
        Claim(
            "The same holds on CIFAR-100",
            "certified accuracy before and after",
            untested="the data set is not here",
        ),
    ),
)
