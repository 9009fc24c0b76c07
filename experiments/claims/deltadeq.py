"""DeltaDEQ (Wang et al. 2024)."""

from __future__ import annotations

from .claim import Body, Claim, Found, Paper, Source, tens

LOSS = 0.01  # of an end-point error that is still "comparable", relative
CUT = {"inr": 0.84, "flow": 0.73}  # the paper's, of Sintel the smaller
EARLY = ("Picard, stopped early", "Anderson, stopped early")


def uneven(body: Body) -> Found:
    """How much longer most entries take than the first."""
    rows = body["result"]["iterations"]
    rest = {k: row["at rest after, quantiles 10/50/90/100%"] for k, row in rows.items()}
    said = ", ".join(f"{k} {q[0]} and {q[2]:,}" for k, q in rest.items())
    return Found(
        f"Iterations until 10% and 90% of the entries rest: {said}",
        tuple(q[2] >= 2 * q[0] for q in rest.values()),
        _entries(body),
    )


def moving(body: Body) -> Found:
    """The same of the optical-flow network."""
    share = body["result"]["pairs"]["share that moves"]
    first, most = (
        next((k for k, s in enumerate(share) if s <= left), len(share)) for left in (0.9, 0.1)
    )
    return Found(
        f"The same of an optical-flow network: {first} and {most}",
        (most >= 2 * first,),
        _flow(body),
    )


def dimension(body: Body) -> Found:
    """Principal components of the way to the answer."""
    rows = {k: row["dimension of z_k - z*"] for k, row in body["result"]["iterations"].items()}
    said = ", ".join(f"{k} {d['components for 99%']} of {d['state']:,}" for k, d in rows.items())
    return Found(
        f"Components that hold 99% of the variance of z_k - z*, many samples together: {said}",
        tuple(d["components for 99%"] <= d["state"] / 4 for d in rows.values()),
        _entries(body),
    )


def inr(body: Body) -> Found:
    """Cuts of every signal, beside stopping early."""
    rows, config = body["result"]["rows"], body["config"]
    best = [row["best within 0.1 dB"] for row in rows.values()]
    cut = [each["delta"]["cut"] if each["delta"] else 0.0 for each in best]
    done = [each["delta"]["cut, as computed"] if each["delta"] else 0.0 for each in best]
    early = [max(each[way]["cut"] if each[way] else 0.0 for way in EARLY) for each in best]
    return Found(
        f"{tens(_percent(cut), '%')} over {len(rows)} representations, at most 0.1 dB lost; "
        f"stopping early saves {tens(_percent(early), '%')} and the kernels really skip "
        f"{tens(_percent(done), '%')}",
        (min(cut) >= CUT["inr"], all(a > b for a, b in zip(cut, early, strict=True))),
        f"images of {config['size']} x {config['size']}, {config['samples']:,} samples of sound, "
        f"{config['hidden']} neurons, {config['steps']:,} steps of training",
    )


def flow(body: Body) -> Found:
    """The cut within 1% of the end-point error, beside stopping early."""
    rows = body["result"]["pairs"]["rows"]
    full = rows["60 iterations"]["EPE"]

    def best(*ways: str) -> tuple[float, str]:
        fine = [(row["cut"], name) for name, row in rows.items()
                if name.startswith(ways) and row["EPE"] <= (1 + LOSS) * full]  # fmt: skip
        return max(fine, default=(0.0, "none"))

    (cut, way), (early, stopped) = best("delta"), best("Picard", "Anderson")
    epe = rows[way]["EPE"] if way in rows else float("nan")
    return Found(
        f"{cut:.1%} ({way}: end-point error {epe:.3f}, {full:.3f} in full); stopping early saves "
        f"{early:.1%} ({stopped}) at no more loss",
        (cut >= CUT["flow"], cut > early),
        _flow(body),
    )


def clock(body: Body) -> Found | None:
    """Whole solves by the clock."""
    times = {
        case: {
            name: row["ms"] for name, row in rows.items() if isinstance(row, dict) and "ms" in row
        }
        for case, rows in body["result"]["solves"].items()
    }
    times = {k: t for k, t in times.items() if {"Picard", "Anderson", "DeltaPicard"} <= set(t)}
    if not times:
        return None
    ours = [t["Picard"] / t["DeltaPicard"] for t in times.values()]
    theirs = [t["Picard"] / t["Anderson"] for t in times.values()]
    return Found(
        f"To one verified residual {tens(ours, 'x', 2)} as fast as dense Picard; dense Anderson "
        f"{tens(theirs, 'x', 2)}",
        (min(ours) > 1.2, all(a > b for a, b in zip(ours, theirs, strict=True))),
        "; ".join(times),
    )


def _entries(body: Body) -> str:
    rows = body["result"]["iterations"]
    return ", ".join(f"{name} of {row['entries']:,} entries" for name, row in rows.items())


def _percent(values: list[float]) -> list[float]:
    return [100 * v for v in values]


def _flow(body: Body) -> str:
    found = body["result"]
    return (
        f"{found['pairs']['pairs']} pairs of {body['config']['view']} x {body['config']['view']} "
        f"pixels, a network of {found['parameters']:,} parameters"
    )


FLOWS = "python -m experiments.flow --device cpu --small --minutes 5"
WARPED = "photographs warped by known smooth flows, not Sintel or KITTI; a small network"
RATIO = "90% of the entries take at least twice the iterations of the first 10%"

DELTADEQ = Paper(
    "DeltaDEQ",
    "Zuowen Wang, Longbiao Cheng, Pehuen Moure, Niklas Hahn, Shih-Chii Liu (2024). *DeltaDEQ: "
    "exploiting heterogeneous convergence for accelerating deep equilibrium iterations*. NeurIPS "
    "2024.",
    "https://openreview.net/forum?id=7qBkADV4zD",
    "delta.md",
    (
        Claim(
            "Coordinates converge unevenly, in DEQs and in other iterations",
            "some dimensions converge much faster; shown for DEQs and a sine RNN",
            (
                Source(
                    "heterogeneous",
                    "python -m experiments.heterogeneous --small",
                    f"of each of (a) a DEQ-Siren, (b) a sine RNN, (c) Jacobi's method: {RATIO}",
                    uneven,
                    "small sizes; at rest: within 1e-3 of the answer, of its root mean square",
                    "heterogeneous.png",
                ),
                Source("flow", FLOWS, RATIO, moving, WARPED, "flow_rest.png"),
            ),
        ),
        Claim(
            "The dynamics have far fewer dimensions than the state",
            "shown by principal components",
            (
                Source(
                    "heterogeneous",
                    "python -m experiments.heterogeneous --small",
                    "of each of (a) the same DEQ-Siren, (b) sine RNN, (c) Jacobi's method: 99% of "
                    "the variance lies in at most a quarter of the dimensions",
                    dimension,
                    "small sizes; the path of one sample alone has few points, and so few "
                    "dimensions",
                    "sine_states.png",
                ),
            ),
        ),
        Claim(
            "Skipping cuts 84% of the FLOPs of implicit neural representations, at comparable "
            "quality",
            "84%",
            (
                Source(
                    "inr",
                    "python -m experiments.inr",
                    "(a) at least 84% of the multiply-adds of 40 fixed iterations in every "
                    "representation; (b) more than stopping the same iteration early saves",
                    inr,
                    "photographs that come with scikit-learn and a synthesised sound; counted as "
                    "there, by the entries that changed, but the reference is the last propagated "
                    "value",
                    "inr.png",
                ),
            ),
        ),
        Claim(
            "Skipping cuts 73% to 76% of the FLOPs of optical flow, at comparable error",
            "73% on Sintel, 76% on KITTI",
            (
                Source(
                    "flow",
                    FLOWS,
                    "(a) at least 73% of 60 damped iterations at no more than 1% of end-point "
                    "error; (b) more than stopping Picard or Anderson early saves",
                    flow,
                    WARPED,
                    "flow.png",
                ),
            ),
        ),
        Claim(
            "The same on Sintel and KITTI themselves",
            "end-point error of the base model, DEQ-Flow-B: Sintel 1.39 / 2.77, KITTI 4.46",
            untested="neither data set is here, nor the published weights",
        ),
        Claim(
            "It accelerates equilibrium iterations",
            "FLOPs in theory: the release computes densely on masked input and times nothing",
            (
                Source(
                    "delta_speed",
                    "python -m experiments.delta_speed",
                    "by the clock, on models whose coordinates converge unevenly: (a) at least "
                    "1.2 times as fast as dense Picard; (b) faster than dense Anderson",
                    clock,
                    "kernels of ours that really skip, and a rule without the drift of the "
                    "published one",
                ),
            ),
        ),
    ),
)
