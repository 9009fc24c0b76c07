"""Put the same questions to this library and to the peers that are installed here.

    python -m experiments.peers

Prints two tables in Markdown, of equilibria and of flows, for docs/compare.md. A peer that is not
installed is left out. Questions: what an easy sample costs alone and beside a hard one; what is
said of a map that diverges, or of a sample that is not a number, and whether its neighbour's answer
is still right; how wrong a second derivative is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from experiments.results import bare
from homotopy_deq import Implicit, Picard, RungeKutta, solve
from solvers import Anderson, Equilibrium, InitialValue, Status

DOUBLE = torch.float64
Answer = tuple[Tensor, Any, str]
"""The states, evaluations of the first sample, and what was said of the others."""


def ours(slopes: Tensor, ones: Tensor, graph: bool = False) -> Answer:
    problem = Equilibrium(lambda z, s, x: s * z + x, (slopes, ones))
    rule = Implicit(Anderson(rtol=1e-12)) if graph else None
    solver, z0 = Picard(rtol=1e-8, max_steps=500), torch.zeros_like(ones)
    found = solve(problem, solver, z0) if rule is None else rule.apply(problem, solver, z0)
    said = [Status(code).name for code in found.status.tolist()]
    return found.value, int(found.evals[0]), ", ".join(said)


def torchdeq(slopes: Tensor, ones: Tensor, graph: bool = False) -> Answer:
    from torchdeq import get_deq

    calls = 0

    def f(z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return slopes * z + ones

    deq = get_deq(f_tol=1e-8, f_max_iter=500, f_stop_mode="rel", ift=True, b_tol=1e-12,
                  b_max_iter=500)  # fmt: skip
    with warnings.catch_warnings(record=True) as told:
        z_out, info = deq.train(graph)(f, torch.zeros_like(ones))
    evaluations = calls
    residuals = ", ".join(f"{r:.0e}" for r in info["rel_lowest"].tolist())
    return z_out[-1], evaluations, f"{len(told)} warnings; rel_lowest {residuals}"


def silva(slopes: Tensor, ones: Tensor, graph: bool = False) -> Answer:
    from silva_networks.solvers import SolverConfig, solve_equilibrium

    config = SolverConfig(solver="picard", max_iter=500, tol=1e-8, alpha=1.0, stop_mode="relative",
                          backward_mode="implicit" if graph else "unrolled",
                          backward_tol=1e-12)  # fmt: skip
    found = solve_equilibrium(
        lambda z: slopes * z + ones, torch.zeros_like(ones), config, tensors=(slopes,)
    )
    return found.z, found.iterations, f"converged = {found.converged}, of the batch"


def flow_of_ours(rates: Tensor) -> Answer:
    problem = InitialValue(lambda t, z, k: -k * z, condition=(rates,))
    found = solve(problem, RungeKutta(rtol=1e-6, atol=1e-6, max_steps=5000), torch.ones_like(rates))
    return (
        found.value,
        int(found.evals[0]),
        ", ".join(Status(c).name for c in found.status.tolist()),
    )


def torchdiffeq(rates: Tensor) -> Answer:
    from torchdiffeq import odeint

    calls = 0

    def field(t: Tensor, z: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return -rates * z

    times = torch.tensor([0.0, 1.0], dtype=DOUBLE)
    z = odeint(field, torch.ones_like(rates), times, rtol=1e-6, atol=1e-6)
    return z[-1], calls, "-"


def torchode(rates: Tensor) -> Answer:
    import torchode as to

    term = to.ODETerm(lambda t, y: -rates * y)
    control = to.IntegralController(atol=1e-6, rtol=1e-6, term=term)
    solver = to.AutoDiffAdjoint(to.Dopri5(term=term), control, max_steps=5000)
    times = torch.tensor([[0.0, 1.0]], dtype=DOUBLE).repeat(len(rates), 1)
    found = solver.solve(to.InitialValueProblem(y0=torch.ones_like(rates), t_eval=times))
    names = [to.status_codes.Status(code).name for code in found.status.tolist()]
    evaluations = 2 + 6 * int(found.stats["n_steps"][0])  # of this sample's own steps
    return found.ys[:, -1], evaluations, ", ".join(names)


EQUILIBRIA: dict[str, tuple[str, Callable[..., Answer]]] = {
    "homotopy-deq": ("homotopy-deq", ours),
    "torchdeq": ("torchdeq", torchdeq),
    "silva-networks": ("silva_networks", silva),
}
FLOWS: dict[str, tuple[str, Callable[..., Answer]]] = {
    "homotopy-deq": ("homotopy-deq", flow_of_ours),
    "torchdiffeq": ("torchdiffeq", torchdiffeq),
    "torchode": ("torchode", torchode),
}


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)[:, None]


def equilibria(find: Callable[..., Answer]) -> dict[str, str]:
    """Answer the questions by z = s z + x, z* = x / (1 - s)."""
    easy, hard, one = 0.5, 0.95, torch.ones(2, 1, dtype=DOUBLE)
    rows = {
        "easy sample alone, beside a hard one": f"{tried(find, column(easy), one[:1])[1]}, "
        f"{tried(find, column(easy, hard), one)[1]} evaluations",
        "a map that diverges (s = 2)": tried(find, column(2.0), one[:1])[2],
    }
    z, _, said = tried(find, column(easy, easy), torch.tensor([[1.0], [float("nan")]]).double())
    rows["beside a NaN"] = f"{wrong(z, 2.0)}; {said}"
    try:
        slope = column(easy).requires_grad_()
        z, _, _ = find(slope, one[:1], graph=True)
        (first,) = torch.autograd.grad(z.sum(), slope, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), slope)  # 2 / (1 - s)^3 = 16
        off = abs(float(second.detach()) - 16) / 16
        rows["second derivative"] = f"off by {off:.0e}"
    except Exception as error:  # whatever a peer raises is its answer
        rows["second derivative"] = raised(error)
    return rows


def flows(find: Callable[..., Answer]) -> dict[str, str]:
    """Answer the questions by dz/dt = -k z from 1, z(1) = exp(-k)."""
    alone, beside = (tried(find, column(*k))[1] for k in ((1.0,), (1.0, 1000.0)))
    z, _, said = tried(find, column(1.0, float("nan")))
    return {
        "easy sample alone, beside a stiff one": f"{alone}, {beside} evaluations",
        "beside a NaN": f"{wrong(z, 0.36787944117144233)}; {said}",
    }


def tried(find: Callable[..., Answer], *args: Tensor) -> Answer:
    try:
        return find(*args)
    except Exception as error:  # likewise
        return torch.full((1, 1), float("nan"), dtype=DOUBLE), "-", raised(error)


def raised(error: Exception) -> str:
    told = str(error).splitlines()
    return f"raises {type(error).__name__}: {told[0][:60] if told else ''}".strip(": ")


def wrong(z: Tensor, right: float) -> str:
    off = abs(float(z[0, 0].detach()) - right)
    return "the neighbour is right" if off < 1e-4 else f"the neighbour is off by {off:.1e}"


def table(kinds: dict[str, tuple[str, Callable[..., Answer]]], ask: Callable[..., Any]) -> str:
    """Return the answers in Markdown, a column for each library that is installed."""
    known = {n: (p, f) for n, (p, f) in kinds.items() if n == "homotopy-deq" or find_spec(p)}
    found = {name: ask(find) for name, (_, find) in known.items()}
    heads = [name if name == "homotopy-deq" else f"{name} {version(name)}" for name in found]
    lines = ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for question in next(iter(found.values())):
        lines.append(
            f"| {question} | " + " | ".join(each[question] for each in found.values()) + " |"
        )
    return "\n".join(lines)


def main() -> str:
    """Print both tables."""
    shown = f"{table(EQUILIBRIA, equilibria)}\n\n{table(FLOWS, flows)}"
    print(shown)
    return shown


if __name__ == "__main__":
    bare(__doc__)
    main()
