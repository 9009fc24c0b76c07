"""What the runs of `experiments.neural_collapse` say together: means, paired bands, verdicts."""

from __future__ import annotations

from typing import Any

from experiments.collapse_runs import PEERS
from homotopy_deq.theory.paired import paired

FINAL = (
    "error", "objective", "nc1", "nc2_means", "nc2_weights", "nc2_angles", "nc2_norms", "nc3",
    "nc4", "minority_cosine",
)  # fmt: skip
CURVES = ("epoch", "error", "nc1", "nc2_means", "nc2_weights", "nc3", "nc4", "nc2_norms")
ACCURACIES = ("accuracy", "majority accuracy", "minority accuracy")


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of a training set: of each peer over its seeds, and of their pairs."""
    by_peer = {p: [r for r in runs if r["peer"] == p] for p in PEERS}
    by_peer = {peer: some for peer, some in by_peer.items() if some}
    curves = {
        peer: {k: [_mean([r["points"][i][k] for r in some]) for i in range(len(some[0]["points"]))]
               for k in CURVES}
        for peer, some in by_peer.items()
    }  # fmt: skip
    return {
        "train images": runs[0]["train images"],
        "peers": {
            peer: {
                "seeds": len(some),
                **{k: _mean([r[k] for r in some]) for k in ACCURACIES},
                **{k: _mean([r["last"][k] for r in some]) for k in FINAL},
                "vertices": sum(r["vertices"] for r in some),
                "self-dual": sum(r["self-dual"] for r in some),
                **{k: some[0][k] for k in ("lower bound", "predicted minority cosine")},
                "seconds": _mean([r["seconds"] for r in some]),
            }
            for peer, some in by_peer.items()
        },
        **{
            f"deq - {other}": {k: paired(differences(runs, k, other)) for k in ACCURACIES}
            for other in PEERS[1:]
        },
        "curves": curves,
    }


def differences(runs: list[dict[str, Any]], key: str, other: str) -> list[float]:
    """Return DEQ - another peer of each seed of which both are done, seeds in order."""
    of = {(r["seed"], r["peer"]): r[key] for r in runs}
    seeds = sorted({r["seed"] for r in runs})
    both = [s for s in seeds if (s, "deq") in of and (s, other) in of]
    return [of[s, "deq"] - of[s, other] for s in both]


def verdict(runs: list[dict[str, Any]], other: str = "explicit") -> dict[str, Any]:
    """Say of each data set whether the DEQ is better than another peer when imbalanced.

    The runs of a seed share images and first weights, so a seed gives one difference, the mean
    over its training sets; a set that lacks a run is left out of all.
    """
    found: dict[str, Any] = {}
    for data in dict.fromkeys(run["data"] for run in runs):
        some = [r for r in runs if r["data"] == data and r["ratio"] > 1]
        sets: dict[str, list[dict[str, Any]]] = {}
        for run in some:
            name = f"R = {run['ratio']}, ({run['majority']}, {run['minority']})"
            sets.setdefault(name, []).append(run)
        seeds = len({r["seed"] for r in some})
        whole = [n for n, v in sets.items() if len(differences(v, "accuracy", other)) == seeds]
        if not whole:
            continue
        found[data] = {"training sets": whole}
        for key in ACCURACIES:
            every = [differences(sets[name], key, other) for name in whole]
            flat = [d for each in every for d in each]
            found[data][key] = {
                **paired([_mean(list(each)) for each in zip(*every, strict=True)]),
                "DEQ ahead": f"{sum(d > 0 for d in flat)} of {len(flat)}",
            }
    return found


def by_point(curve: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Return a curve point by point."""
    return [dict(zip(curve, point, strict=True)) for point in zip(*curve.values(), strict=True)]


def _mean(values: list[Any]) -> Any:
    return None if any(v is None for v in values) else sum(values) / len(values)


def short(value: Any) -> Any:
    """Keep five digits."""
    if isinstance(value, dict):
        return {k: short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [short(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
