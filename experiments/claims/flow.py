"""Gradient flow of linear and single-index DEQs (Dandapanthula & Ramdas 2025)."""

from __future__ import annotations

from .claim import Body, Claim, Found, Paper, Source, of_study, tens

COMMAND = "python -m experiments.gradient_flow"
SMOOTH = ("tanh", "sigmoid", "gelu")


def size(body: Body) -> str:
    """Return the settings, which are the paper's."""
    s = body["result"]["settings"]
    return (
        f"scalar models, x ~ N(0, 1), {s['train']:,} inputs to learn from, {s['test']} to test by, "
        f"{s['epochs']} epochs, as in the paper"
    )


def single(body: Body) -> Found:
    """Risks and distances of the nonlinear models."""
    learnt = {c["says"].split(":")[0]: c["holds"] for c in body["result"]["claims"]
              if c["says"].endswith("the target is learnt")}  # fmt: skip
    runs = body["result"]["training"]
    names = [k for k in (*SMOOTH, "relu", "leaky relu") if k in learnt]
    fell = [k for k in names if learnt[k]]
    away = [runs[k]["deq"]["distance"] for k in SMOOTH]
    missed = [k for k in names if k not in fell]
    return Found(
        f"The test risk falls a hundredfold with {', '.join(fell)}"
        + (f", not with {', '.join(missed)}" if missed else "")
        + f"; of the smooth ones theta ends {tens(away, digits=2)} away from the solution",
        (*(learnt[k] for k in names), max(away) < 0.01),
        size(body),
    )


FLOW = Paper(
    "Gradient flow for single-index DEQs",
    "Sanjit Dandapanthula, Aaditya Ramdas (2025). *Gradient flow for deep equilibrium "
    "single-index models* (since renamed *Gradient descent for deep equilibrium single-index "
    "models*). arXiv 2511.16976.",
    "https://arxiv.org/abs/2511.16976",
    "theory.md",
    (
        Claim(
            "A linear DEQ's parameters stay on a sphere while it is trained by gradient flow",
            "a conservation law",
            (
                Source(
                    "gradient_flow",
                    COMMAND,
                    "(a) C^2 drifts by at most 1e-10 along the flow; (b) descent adds what the "
                    "law says, in proportion to its step",
                    of_study(size, "the linear flow keeps", "descent adds"),
                    "the flow is integrated to a tolerance; the law is also tested of the matrix "
                    "model, in tests/theory",
                    "theory_flow_sphere.png",
                ),
            ),
        ),
        Claim(
            "So it stays well-conditioned for all time",
            "a bound on the distance from the singular point",
            (
                Source(
                    "gradient_flow",
                    COMMAND,
                    "|1 - theta_2| never falls below its bound",
                    of_study(size, "|1 - th2| stays"),
                ),
            ),
        ),
        Claim(
            "Linear DEQs converge linearly to a global minimiser, by flow and by descent of small "
            "steps",
            "an exponential envelope of the loss; a largest step",
            (
                Source(
                    "gradient_flow",
                    COMMAND,
                    "(a) the loss stays below its envelope; (b) the late rate is the predicted "
                    "one; (c) steps below the bound are stable, above it are not; the target is "
                    "learnt (d) without an intercept, (e) with one, (f) from near the singular "
                    "point",
                    of_study(
                        size,
                        "the loss stays below",
                        "the late rate",
                        "eta < C^2",
                        "linear: ",
                        "linear with intercept: ",
                        "linear, near",
                    ),
                    "from near the singular point one step throws it far out, and convergence is "
                    "slow",
                    "theory_flow_descent.png",
                ),
            ),
        ),
        Claim(
            "Single-index DEQs converge linearly, too, from a suitable start with small steps",
            "a theorem under assumptions on activation and start; five activations in experiments",
            (
                Source(
                    "gradient_flow",
                    COMMAND,
                    "the target is learnt from theta near (-0.1, 0) with (a) tanh, (b) sigmoid, "
                    "(c) GELU, (d) ReLU, (e) leaky ReLU; (f) of the smooth ones theta comes "
                    "within 0.01 of the solution",
                    single,
                    "starts as in its experiments, where a ReLU may start dead; whether the "
                    "theorem's start allows that is not known to us",
                    "theory_flow_training.png",
                ),
            ),
        ),
    ),
)
