"""Neural collapse of a DEQ and of its explicit peers, balanced and imbalanced."""

from __future__ import annotations

from typing import Any

from experiments.results import RESULTS

from .markdown import result, section, table

NAME, TITLE = "neural_collapse", "Neural collapse of a DEQ and of an explicit peer"
SHOWN = ("nc1", "nc2_means", "nc2_weights", "nc3")
CALLED = {
    "deq": "DEQ",
    "explicit": "explicit",
    "explicit-weak": "explicit, decay / gain",
}


def neural_collapse() -> str:
    """Return the section, or nothing while there is no result."""
    if not (RESULTS / f"{NAME}.json").exists():
        return ""
    body = result(NAME)
    config, found = body["config"], body["result"]
    cases: dict[str, Any] = found["cases"]
    balanced = [row for name, case in cases.items() if "balanced" in name
                for row in _collapsed(name, case)]  # fmt: skip
    imbalanced = [row for name, case in cases.items() if "balanced" not in name
                  for row in _accurate(name, case)]  # fmt: skip
    paper, gain = found["paper"], 1 / (1 - config["contraction"])
    longer = config.get("terminal", 1)
    more = f" ({longer} times as many where balanced)" if longer > 1 else ""
    return section(
        TITLE,
        NAME,
        f"{found['runs finished']} of {found['runs planned']} runs, {config['seeds']} seeds, "
        f"{found['parameters'][0]:,} parameters each on Fashion-MNIST: three convolutions "
        f"({config['channels']} to {4 * config['channels']} channels), a block of "
        f"{config['features']} x {config['features']} weights and one linear map, trained by Adam "
        f"for {config['steps']:,} steps{more} "
        f"of {config['batch']} images with the layer-peeled loss, decay {config['decay']:g}; "
        f"{config['most']:,} images of each large class. The DEQ has ||W|| <= "
        f"{config['contraction']:g}, a gain of up to {gain:.0f}; \"{CALLED['explicit-weak']}\" is "
        f"the explicit network with {config['decay'] * (1 - config['contraction']):g} for its "
        f"decay. The paper: {paper['data']}; {paper['network']}; {paper['imbalance']}; not known "
        f"to us: {paper['not known to us']}.",
        *_verdicts(found["verdict"]),
        f"- The gain is a decay that is weaker by it: ideal networks of the DEQ and of "
        f"\"{CALLED['explicit-weak']}\" have one loss and one geometry.",
        f"- {_passed(cases)}",
        "",
        *table(
            ("balanced", "network", "train error (%)", "NC1", "NC2 means",
             "NC2 classifiers", "NC3", "vertices to 5%", "self-dual to 5%", "loss over its bound",
             "test accuracy (%)"),
            balanced,
        ),
        "",
        *table(
            ("imbalanced", "network", "cosine of minority classifiers", "of the ideal network",
             "overall (%)", "majority (%)", "minority (%)", "DEQ ahead on the minority (points)"),
            imbalanced,
        ),
    )  # fmt: skip


def _passed(cases: dict[str, Any]) -> str:
    rows = [row for n, case in cases.items() if "balanced" in n for row in case["peers"].values()]
    runs, there, dual = (sum(row[k] for row in rows) for k in ("seeds", "vertices", "self-dual"))
    return (
        f"Of {runs} networks of balanced classes {there} have their means at the vertices of a "
        f"simplex to 5%, and {dual} are self-dual to 5%."
    )


def _collapsed(name: str, case: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            _named(name),
            CALLED[peer],
            f"{100 * row['error']:.2f}",
            *(f"{row[key]:.3f}" for key in ("nc1", "nc2_means", "nc2_weights", "nc3")),
            *(f"{row[key]} of {row['seeds']}" for key in ("vertices", "self-dual")),
            f"{row['objective'] / row['lower bound']:.2f}",
            f"{100 * row['accuracy']:.2f}",
        )
        for peer, row in case["peers"].items()
    ]


def _accurate(name: str, case: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for peer, row in case["peers"].items():
        ahead = case.get(f"deq - {peer}", {}).get("minority accuracy")
        accuracies = (f"{100 * row[f'{part}accuracy']:.1f}" for part in ("", "majority ",
                      "minority "))  # fmt: skip
        cosines = (row["minority_cosine"], row["predicted minority cosine"])
        rows.append((_named(name), CALLED[peer], *(f"{c:.3f}" for c in cosines), *accuracies,
                     "" if ahead is None else _band(ahead)))  # fmt: skip
    return rows


def _verdicts(found: dict[str, Any]) -> list[str]:
    lines = []
    for other, of in found.items():
        for data, row in of.items():
            said = "; ".join(
                f"{part}: {_band(row[key])}, ahead in {row[key]['DEQ ahead']}"
                for part, key in (("overall", "accuracy"), ("minority", "minority accuracy"),
                                  ("majority", "majority accuracy"))
            )  # fmt: skip
            peer = CALLED[other.removeprefix("deq - ")]
            lines.append(
                f'- {data}, imbalanced: the DEQ less "{peer}", mean over the training sets '
                f"{'; '.join(row['training sets'])}. {said}."
            )
    return lines


def _band(found: dict[str, Any]) -> str:
    if found["band"] is None:
        return "" if found["mean"] is None else f"{100 * found['mean']:+.1f}"
    low, high = found["band"]
    return (
        f"{100 * found['mean']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points, "
        f"**{found['verdict']}**"
    )


def _named(case: str) -> str:
    if case.endswith("-balanced"):
        return case.removesuffix("-balanced")
    data, ratio, many, few = case.rsplit("-", 3)
    return f"{data}, R = {ratio[1:]}, ({many}, {few})"
