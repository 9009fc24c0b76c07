"""HomoODE (Ding et al. 2023)."""

from __future__ import annotations

from .claim import Body, Claim, Found, Paper, Source

PUBLISHED = "homoode --no-rest-point"
IMPLICIT = ("deq", "mdeq", "neural-ode", "augmented-neural-ode", "monotone")


def coin(body: Body) -> Found:
    """Where the flow ends, and whether solvers agree on it."""
    r = body["result"]
    apart = {k: v["distance from the polished end, largest"]
             for k, v in r["distances from the polished end"].items()}  # fmt: skip
    end = apart.pop("flow's end")
    same, euler = (
        max(apart.values()),
        r["unit Euler step of Davidenko less a Picard step, largest entry"],
    )
    return Found(
        f"The flow at rest and {len(apart) - 1} equilibrium solvers differ by {same:.0e} at most; "
        f"a unit Euler step of Davidenko's equation is a Picard step to {euler:.0e}; the flow as "
        f"trained, stopped at t = {r['horizon']:g}, is {end:.1%} away",
        (same < 1e-6, euler < 1e-12, end < 0.01),
        f"{r['images']} test images of digits, one model",
    )


def start(body: Body) -> Found:
    """What the shared start saves, trained and not."""
    rows = body["result"]["HomoODE, as published"]
    zero, drawn, learnt = (
        rows[k]["mean"] for k in ("none: zero", "shared, never trained", "shared")
    )
    used = [each["evaluations"] for each in (zero, drawn, learnt)]
    lost = 100 * (zero["accuracy"] - learnt["accuracy"])
    return Found(
        f"{used[2]:.1f} evaluations from the learned start, {used[0]:.1f} from zero, "
        f"{used[1]:.1f} from the same start drawn at random and never trained; {lost:+.1f} points "
        "of accuracy lost",
        (used[2] <= 0.5 * used[0] and lost <= 1, used[2] <= 0.8 * used[1]),
        f"digits, {body['config']['epochs']} epochs, {_many(body['config']['seeds'])}",
    )


def augmented(body: Body) -> Found:
    """The four things that would follow."""
    r, config = body["result"], body["config"]
    mean = r["mean"]
    return Found(
        "Accuracy with the mean in the place of the augmented part "
        f"{mean['accuracy without a']:.1%}, in the place of the other "
        f"{mean['accuracy without u']:.1%}; speed of the augmented part at the end "
        f"{mean['speed of a at the end']:.2f} of its mean "
        f"({mean['DEQ speed of z at the end']:.2f} where there is an equilibrium); "
        f"{sum(r['holds'].values())} of {len(r['holds'])} hold in every seed",
        tuple(r["holds"].values()),
        f"{config['dataset']}, {config['epochs']} epochs, {_many(config['seeds'])}",
    )


def families(body: Body) -> Found | None:
    """Accuracy beside every implicit family of one budget."""
    models = body["result"]["models"]
    others = _implicit(models)
    if PUBLISHED not in models or not others:
        return None
    ours = models[PUBLISHED]["accuracy"]
    above = [models[k]["accuracy"]["mean"] < ours["mean"] for k in others]
    clear = [models[k]["accuracy"]["of the seeds"][1] < ours["of the seeds"][0] for k in others]
    best = max(others, key=lambda k: models[k]["accuracy"]["mean"])
    return Found(
        f"HomoODE as published {ours['mean']:.2%} (seeds {_seeds(ours)}); the best other implicit "
        f"model, {best}, {models[best]['accuracy']['mean']:.2%} "
        f"({_seeds(models[best]['accuracy'])}); ahead of {sum(above)} of {len(others)}",
        (all(above), all(clear)),
        _compared(body),
    )


def memory(body: Body) -> Found | None:
    """Memory of a training step beside every implicit family."""
    models = body["result"]["models"]
    others = _implicit(models)
    if PUBLISHED not in models or not others:
        return None
    used = {k: models[k]["step"]["peak_mib"] for k in (PUBLISHED, *others)}
    said = ", ".join(f"{name} {mib:.0f}" for name, mib in used.items())
    return Found(
        f"MiB of a training step beyond model and images: {said}",
        (used[PUBLISHED] < min(used[k] for k in others),),
        _compared(body),
    )


def constant(body: Body) -> Found | None:
    """Whether the adjoint's memory grows with the steps."""
    rows = body["result"].get("flow", {})
    if not {"Adjoint()", "Unroll()"} <= set(rows):
        return None
    (a, b), (c, d) = ([rows[k][n]["peak, states"] for n in ("10", "200")]
                      for k in ("Adjoint()", "Unroll()"))  # fmt: skip
    return Found(
        f"Of a flow's gradient: {a:.0f} states at 10 steps and {b:.0f} at 200 by the adjoint, "
        f"{c:.0f} and {d:,.0f} unrolled",
        (b < 0.5 * d, b < 1.1 * a),
        f"tanh flow of {body['config']['width']} numbers, batch {body['config']['batch']}",
    )


def cifar10(body: Body) -> Found | None:
    """Accuracy at equal epochs, on validation images."""
    rows = {k: row for k, row in body["result"]["models"].items() if row["epochs"]}
    first = rows.get("HomoODE, as published")
    if first is None or not any("Neural ODE" in name for name in rows):
        return None
    epochs = min(row["epochs"] for row in rows.values())
    reached = {k: row["validation accuracy"][epochs - 1] for k, row in rows.items()}
    others = [value for name, value in reached.items() if "HomoODE" not in name]
    return Found(
        f"After {epochs} epochs, on validation images: "
        + "; ".join(f"{name}: {value:.1%}" for name, value in reached.items()),
        (reached["HomoODE, as published"] > max(others),),
        f"{first['train images']:,} images of CIFAR-10, one seed, {body['config']['epochs']} "
        "epochs asked for",
    )


def _implicit(models: Body) -> list[str]:
    """Name the other implicit families, whatever width stands behind their names."""
    return [name for name in models if name.partition(" ")[0] in IMPLICIT]


def _seeds(accuracy: Body) -> str:
    low, high = accuracy["of the seeds"]
    return f"{low:.2%} to {high:.2%}"


def _many(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def _compared(body: Body) -> str:
    images, model = body["result"]["images"], next(iter(body["result"]["models"].values()))
    seeds, epochs = len(model["seeds"]), model["settings"]["epochs"]
    return f"{images['train']:,} images of {images['name']}, {epochs} epochs, {_many(seeds)}"


ABOVE = (
    "(a) its mean accuracy is above that of every other implicit model; (b) so is its worst seed "
    "above their best"
)
DIGITS = Source("compare_digits", "python -m experiments.compare", ABOVE, families,
                "8 x 8 images; small models of one size, to a tenth where that is "
                "possible")  # fmt: skip

HOMOODE = Paper(
    "HomoODE",
    "Shutong Ding, Tianyu Cui, Jingya Wang, Ye Shi (2023). *Two sides of the same coin: bridging "
    "deep equilibrium models and neural ODEs via homotopy continuation*. NeurIPS 2023.",
    "https://arxiv.org/abs/2310.09583",
    "start.md",
    (
        Claim(
            "DEQs and neural ODEs are two sides of one coin: a flow ends at the equilibrium",
            "a derivation: the path of a homotopy, followed as an ODE, leads to the equilibrium",
            (
                Source(
                    "homoode_links",
                    "python -m experiments.homoode_links",
                    "(a) the flow at rest and every solver's equilibrium agree to 1e-6; (b) a "
                    "unit Euler step of Davidenko's equation is a Picard step; (c) the flow as "
                    "trained ends within 1% of it",
                    coin,
                    "our form with a rest point, dz/dt = f(z; x) - z: the published field ends in "
                    "a norm, cannot come to rest, and its z(1) is the equilibrium of nothing that "
                    "is written down",
                ),
            ),
        ),
        Claim(
            "HomoODE inherits the stability of neural ODEs",
            "said of it, beside DEQs",
            untested="no run here trains it beside a DEQ that becomes unstable; every implicit "
            "model of our comparison on the digits solves every test image",
        ),
        Claim(
            "A shared, learnable start accelerates it",
            "fewer evaluations at no loss of accuracy",
            (
                Source(
                    "start",
                    "python -m experiments.start",
                    "(a) at most half of a zero start's evaluations, at most a point of accuracy "
                    "lost; (b) at most 0.8 of those of the same start that was never trained: "
                    "that it is learned must pay",
                    start,
                    "digits and a small model; the rate at which the start follows is slower than "
                    "it could be, as a quick one loses accuracy",
                ),
            ),
        ),
        Claim(
            "In an augmented neural ODE the augmented part plays the equilibrium",
            "an interpretation, not measured there",
            (
                Source(
                    "augmented",
                    "python -m experiments.augmented",
                    "in every seed: (a) the head reads the augmented part, (b) the other part "
                    "serves as a condition, (c) it comes to rest, (d) it predicts a DEQ's "
                    "equilibrium better than the other",
                    augmented,
                    "augmented by as many channels; digits",
                ),
            ),
        ),
        Claim(
            "It is more accurate than DEQ, MDEQ, neural ODE and augmented neural ODE",
            "above them on CIFAR-10, CIFAR-100 and Tiny-ImageNet (its tables were not at hand)",
            (
                DIGITS,
                Source(
                    "compare_fashion-mnist",
                    "python -m experiments.compare --dataset fashion-mnist --data DIR",
                    ABOVE,
                    families,
                    "Fashion-MNIST; small models of one size, to a tenth where that is possible",
                ),
                Source(
                    "cifar10",
                    "python -m experiments.cifar10 --data DIR --epochs 3",
                    "its validation accuracy at equal epochs is above that of every other model",
                    cifar10,
                    "3 epochs of 20,000 images, not 300 of all; no DEQ or MDEQ beside it",
                ),
                Source(
                    "cifar10_cuda",
                    "python -m experiments.cifar10 --data DIR --limit 0 --epochs 16 --jobs 4",
                    "its validation accuracy at equal epochs is above that of every other model",
                    cifar10,
                    "16 epochs, not 300; the published form's start followed the flow's end too "
                    "quickly in this run (rate 0.2 at every step, not the recipe's), and lost by "
                    "it; no DEQ or MDEQ beside it",
                ),
            ),
        ),
        Claim(
            "It takes less memory than they do",
            "less than DEQ, MDEQ, neural ODE and augmented neural ODE",
            (
                Source(
                    "compare_digits",
                    "python -m experiments.compare",
                    "a training step takes less than that of every other implicit model",
                    memory,
                    "exact gradients through 20 evaluations here; the release trains by an "
                    "adjoint whose gradient is wrong (dz1/dz0 = 1 for dz/dt = z/2)",
                ),
                Source(
                    "gradients",
                    "python -m experiments.gradients",
                    "(a) the exact adjoint takes less than half of unrolling's at 200 steps; (b) "
                    "no more than a tenth more at 200 steps than at 10",
                    constant,
                    "torchdiffeq's adjoint of one flow, not a model; what the step sizes fill is "
                    "counted",
                ),
            ),
        ),
        Claim(
            "Both hold on CIFAR-100 and Tiny-ImageNet",
            "accuracy and memory on both",
            untested="neither data set is here; `--dataset cifar100` and `--dataset tiny-imagenet` "
            "read them",
        ),
    ),
)
