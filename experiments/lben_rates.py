"""How fast splittings solve equilibria with a metric, beside the rates that are proved."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from homotopy_deq.lipschitz import LBEN, Form
from solvers import (
    DouglasRachford,
    ForwardBackward,
    MonotoneInclusion,
    PeacemanRachford,
    solve,
)

Splitting = ForwardBackward | PeacemanRachford | DouglasRachford


def network(seed: int, hidden: int = 20) -> Form:
    """Return an LBEN with a metric that is not the identity."""
    torch.manual_seed(seed)
    made = LBEN(8, hidden, 4, gamma=2.0, epsilon=0.05).double()
    with torch.no_grad():
        made.cell.psi.normal_(std=0.5)  # type: ignore[union-attr, operator]
    return made.form()


def posed(form: Form, *, backward: bool) -> tuple[MonotoneInclusion, Tensor, Tensor, Tensor]:
    """Return z = relu(W z + x) or u = J (W^T u + g), its answer, normal and metric."""
    w, metric = form.w[0], form.metric
    signed = torch.randn(1, len(metric), dtype=torch.float64)
    answer, beyond, prox = signed.relu(), -(-signed).relu(), torch.relu
    if backward:
        on, free = (signed > 0).double(), torch.randn_like(signed)
        w, metric = w.mT, 1 / metric
        answer, beyond, prox = on * free, (1 - on) * free, lambda v: on * v
    eye = torch.eye(len(w), dtype=w.dtype)

    def resolvent(alpha: float) -> Callable[[Tensor], Tensor]:
        inverse = torch.linalg.inv((1 + alpha) * eye - alpha * w)
        return lambda v: v @ inverse.mT

    problem = MonotoneInclusion(
        condition=(answer + beyond - answer @ w.mT,), linear=lambda z: z @ w.mT,
        resolvent=resolvent, prox=prox, moduli=form.moduli, metric=metric,
    )  # fmt: skip
    return problem, answer, beyond, metric


def predicted(kind: type[Splitting], alpha: float, m: float, norm: float) -> float:
    """Return the proved rate of a splitting."""
    square = 1 - 2 * alpha * m + (alpha * norm) ** 2
    if kind is ForwardBackward:
        return math.sqrt(square)
    reflected = math.sqrt(square / (1 + 2 * alpha * m + (alpha * norm) ** 2))
    return reflected if kind is PeacemanRachford else (1 + reflected) / 2


def rates(draws: int, seed: int) -> dict[str, Any]:
    """Return measured and predicted contraction, and iterations at the best and fixed steps."""
    found: dict[str, Any] = {}
    for backward in (False, True):
        for kind in (ForwardBackward, PeacemanRachford, DouglasRachford):
            ratios, bounds, steps = [], [], dict[str, list[int]]()
            for draw in range(draws):
                form = network(seed + draw)
                problem, answer, beyond, metric = posed(form, backward=backward)
                m, norm = form.moduli()
                alpha = kind().best(m, norm)
                ratios.append(_worst(kind(step_size=alpha), problem, answer, beyond, metric))
                bounds.append(predicted(kind, alpha, m, norm))
                for name, step in (("best", None), ("0.1", 0.1), ("1", 1.0)):
                    solver = kind(step_size=step, rtol=1e-8, max_steps=20_000)
                    done = solve(problem, solver, torch.zeros_like(answer))
                    steps.setdefault(name, []).append(
                        int(done.steps) if bool(done.converged) else -1
                    )
            name = f"{kind.__name__}, {'backward' if backward else 'forward'}"
            failed = {key: sum(s < 0 for s in each) for key, each in steps.items()}
            medians = {k: _median([s for s in each if s >= 0]) for k, each in steps.items()}
            found[name] = {
                "predicted rate, median": _median(bounds),
                "worst measured, median": _median(ratios),
                "largest measured over predicted": max(
                    r / b for r, b in zip(ratios, bounds, strict=True)
                ),
                "iterations to 1e-8, median": medians,
                "did not converge": failed,
            }
            print(name, found[name], flush=True)
    return {"networks": draws, "splittings": found}


def _worst(
    solver: Splitting, problem: MonotoneInclusion, answer: Tensor, beyond: Tensor, metric: Tensor
) -> float:
    """Return by what the error of 50 steps is multiplied at most, in the metric."""

    def size(z: Tensor) -> float:
        return float((metric * z.square()).sum().sqrt())

    def error(state: Any) -> float:
        if isinstance(solver, ForwardBackward):
            return size(state.z - answer)
        return size(state.u - answer - (solver.step_size or 0) * beyond)

    state: Any = solver.init(problem, torch.zeros_like(answer))
    before, worst = error(state), 0.0
    for _ in range(50):
        state = solver.step(problem, state)
        now = error(state)
        if now < 1e-9:  # what is left is rounding
            break
        before, worst = now, max(worst, now / before)
    return worst


def _median(values: list[Any]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median()) if values else math.nan
