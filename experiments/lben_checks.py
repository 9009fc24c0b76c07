"""Measure what the bounded networks promise: gains, rates of splittings, programs, intervals.

    python -m experiments.lben_checks [--part gains] [--work DIR]

Each part is kept as soon as it is there, and the same command goes on; the program needs cvxpy.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.lben_rates import rates
from experiments.results import RESULTS, ROOT, Record, commit
from homotopy_deq.lipschitz import (
    AOL,
    CPL,
    LBEN,
    SLL,
    Form,
    MonDEQ,
    Sandwich,
    certify_lipschitz,
    gain_found,
    interval_bounds,
    lipsdp,
)
from solvers import (
    Implicit,
    MonotoneInclusion,
    PeacemanRachford,
    Picard,
    Unroll,
    solve,
)

TIGHT = PeacemanRachford(step_size=1.0, rtol=1e-7, max_steps=500)
LOOSE = PeacemanRachford(step_size=1.0, rtol=1e-2, max_steps=50)


@dataclass(frozen=True)
class Config:
    """Sizes.

    Arguments:
        pairs: of inputs that are drawn, and that ascents on the gain look at.
        ascent: steps of its two searches.
        draws: networks whose rates are measured.
        neurons: of the networks of the program.
        large: of the one that is timed.
        boxes: points that are drawn in boxes.
    """

    seed: int = 0
    pairs: int = 10_000
    ascent: int = 20
    draws: int = 20
    neurons: int = 40
    large: int = 200
    boxes: int = 10_000
    work: Path = ROOT / "runs" / "lben_checks"
    out: Path = RESULTS


def gains(config: Config) -> dict[str, Any]:
    """Return the largest gain that is found of each structure, over what is proved."""
    grid, found = (6, 6), {}
    stacks: dict[str, Callable[[], nn.Module]] = {
        "CPL": lambda: nn.Sequential(*(CPL(12) for _ in range(3))),
        "SLL": lambda: nn.Sequential(*(SLL(12) for _ in range(3))),
        "AOL": lambda: nn.Sequential(*(AOL(12, 12) for _ in range(3))),
        "Sandwich": lambda: nn.Sequential(*(Sandwich(12, 12) for _ in range(3))),
        "LBEN": lambda: LBEN(12, 24, 12),
        "monDEQ": lambda: MonDEQ(12, 24, 12, monotonicity=1.0),
        "CPL, images": lambda: nn.Sequential(*(CPL(3, grid=grid) for _ in range(3))),
        "SLL, images": lambda: nn.Sequential(*(SLL(3, grid=grid) for _ in range(3))),
        "AOL, images": lambda: nn.Sequential(*(AOL(3, 3, grid=grid) for _ in range(3))),
        "Sandwich, images": lambda: nn.Sequential(*(Sandwich(3, 3, grid=grid) for _ in range(3))),
        "LBEN, images": lambda: LBEN(3, 4, 3, grid=grid),
    }
    for name, make in stacks.items():
        torch.manual_seed(config.seed)
        network = make().double().eval()
        shape = (config.pairs, 3, *grid) if "images" in name else (config.pairs, 12)
        unrolled(network, LOOSE)
        trained(network, shape[1:], 25)
        unrolled(network, TIGHT)
        gamma = certify_lipschitz(network).value
        x = torch.randn(shape, dtype=torch.float64)
        away = torch.randn(shape, dtype=torch.float64)
        away *= torch.rand(len(x), *(1,) * (len(shape) - 1)).double().mul(6).sub(4).exp()
        with torch.no_grad():
            moved = (network(x + away) - network(x)).flatten(1).norm(dim=1)
        drawn = float((moved / away.flatten(1).norm(dim=1)).amax())
        starts = x[: len(x) // config.ascent]  # each step of an ascent looks at a pair
        best = float(gain_found(network, starts, steps=config.ascent).amax())
        found[name] = {
            "proved": gamma, "sampled": drawn, "maximised": best,
            "pairs of the ascent": len(starts) * config.ascent,
            "tightness": max(drawn, best) / gamma, "above": int(max(drawn, best) > gamma),
        }  # fmt: skip
        print(name, found[name], flush=True)
    return {"pairs": config.pairs, "structures": found}


def unrolled(network: nn.Module, solver: PeacemanRachford) -> None:
    """Solve the equilibria of a network so, in place, with the gradient of the path."""
    for part in network.modules():
        if isinstance(part, LBEN | MonDEQ):
            part.layer = part.layer.with_solver(solver, Unroll())
            part.layer.on_failure = "ignore"


def trained(network: nn.Module, shape: tuple[int, ...], steps: int) -> None:
    """Push the map towards a larger gain by a few steps of Adam, in place."""
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(1)
    network.train()
    for _ in range(steps):
        x = torch.randn(64, *shape, generator=draw, dtype=torch.float64)
        optimiser.zero_grad()
        (-(network(x) - network(-x)).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)).sum(
        ).backward()  # fmt: skip
        optimiser.step()
    network.eval()


def impulse(config: Config) -> dict[str, Any]:
    """Return the singular values of convolutions' linear parts after 25 steps, in eval mode.

    With all neurons on, or none, a layer is a linear map, whose columns are its answers to
    impulses: the bias is put far above, or below, 0.
    """
    grid, found = (8, 8), {}
    for kind in (CPL, SLL, AOL, Sandwich):
        torch.manual_seed(config.seed)
        layer = kind(3, 3, grid=grid).double()
        trained(layer, (3, *grid), 25)
        row = {}
        for name, bias in (("all neurons on", 1e3), ("none", -1e3)):
            with torch.no_grad():
                layer.bias.fill_(bias)
                pixels = torch.eye(192, dtype=torch.float64).view(192, 3, *grid)
                columns = (layer(pixels) - layer(torch.zeros_like(pixels[:1]))).flatten(1)
            values = torch.linalg.svdvals(columns)
            row[name] = [float(values.amin()), float(values.amax())]
        found[kind.__name__] = row
    return found


def monotone(m: float, n: int, seed: int) -> Form:
    """Return a monDEQ of any m > 0 as a form: W = (1 - m) I - A^T A + B - B^T."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64) / shape[1] ** 0.5

    a, b, u, v = normal(n, n), normal(n, n), normal(n, 10), normal(10, n)
    w = (1 - m) * torch.eye(n, dtype=torch.float64) - a.mT @ a + b - b.mT
    nu, nv = (float(torch.linalg.matrix_norm(t, 2)) for t in (u, v))
    bias = torch.zeros(n, dtype=torch.float64)
    return Form(
        w=w[None], u=u[None], v=v[None], d=u.new_zeros(1, 10, 10), b=bias, c=bias[:10],
        metric=torch.full_like(bias, nv / nu), gamma=nu * nv / m, linear=bias > 1,
    )  # fmt: skip


def program(config: Config) -> dict[str, Any]:
    """Return what the semidefinite program proves beside ||U|| ||V|| / m, and in what time."""
    found = {}
    for m, n in ((0.3, config.neurons), (1.0, config.neurons), (5.0, config.neurons),
                 (1.0, config.large)):  # fmt: skip
        form = monotone(m, n, config.seed)
        begin = time.perf_counter()
        repaired = lipsdp(form)
        seconds = time.perf_counter() - begin
        x = torch.randn(500, 10, dtype=torch.float64)
        away = torch.randn_like(x) * 0.1
        answer, other = (_equilibrium(form, at) for at in (x, x + away))
        gain = ((other - answer).norm(dim=1) / away.norm(dim=1)).amax()
        found[f"m = {m:g}, {n} neurons"] = {
            "trivial": form.proved(), "claimed": repaired.gamma, "proved": repaired.proved(),
            "least eigenvalue": repaired.lmi()[1], "sampled": float(gain), "seconds": seconds,
        }  # fmt: skip
        print(m, n, found[f"m = {m:g}, {n} neurons"], flush=True)
    return found


def _equilibrium(form: Form, x: Tensor) -> Tensor:
    """Return the output of a form by Peaceman and Rachford's splitting."""
    w = form.w[0]
    eye = torch.eye(len(w), dtype=w.dtype)

    def resolvent(alpha: float) -> Callable[[Tensor], Tensor]:
        inverse = torch.linalg.inv((1 + alpha) * eye - alpha * w)
        return lambda v: v @ inverse.mT

    problem = MonotoneInclusion(
        condition=(x @ form.u[0].mT + form.b,), linear=lambda z: z @ w.mT,
        resolvent=resolvent, moduli=form.moduli,
    )  # fmt: skip
    start = x.new_zeros(len(x), len(w))
    return solve(problem, PeacemanRachford(rtol=1e-11, max_steps=5000), start).value @ form.v[0].mT


def intervals(config: Config) -> dict[str, Any]:
    """Return how many outputs of points in boxes leave their intervals."""
    torch.manual_seed(config.seed)
    made = MonDEQ(8, 24, 5, monotonicity=0.9).double()
    with torch.no_grad():
        made.cell.cell.gram.mul_(0.3)  # type: ignore[union-attr, operator]
        made.cell.cell.skew.mul_(0.2)  # type: ignore[union-attr, operator]
    made.layer = made.layer.with_solver(PeacemanRachford(rtol=1e-12), Implicit(Picard(rtol=1e-9)))
    radius, centres = 0.2, torch.randn(10, 8, dtype=torch.float64)
    box = interval_bounds(made, centres, radius)
    each, outside, widest = config.boxes // 10, 0, 0.0
    for low, high, x in zip(box.low, box.high, centres, strict=True):
        corner = torch.randn(each, 8, dtype=torch.float64).sign()
        inner = 2 * torch.rand(each, 8, dtype=torch.float64) - 1
        half = (torch.arange(each) % 2)[:, None]
        with torch.no_grad():
            y = made(x + radius * torch.where(half > 0, corner, inner))
        outside += int(((y < low) | (y > high)).any(1).sum())
        reached = (y.amax(0) - y.amin(0)) / (high - low)
        widest = max(widest, float(reached.amax()))
    return {"samples": 10 * each, "outside": outside, "share of an interval reached": widest}


PARTS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "rates": lambda config: rates(config.draws, config.seed),
    "intervals": intervals,
    "impulse": impulse,
    "gains": gains,
    "program": program,
}


def main(config: Config, only: str | None = None) -> None:
    """Do the parts that are left; write what there is after each."""
    record, done = Record("lben_checks", config), {}
    config.work.mkdir(parents=True, exist_ok=True)
    for name, measure in PARTS.items():
        file = config.work / f"{name}.json"
        if not file.exists() and only in (None, name):
            if name == "program" and importlib.util.find_spec("cvxpy") is None:
                print("program: left out, as cvxpy is not installed")
                continue
            begin = time.perf_counter()
            found = measure(config)
            seconds = round(time.perf_counter() - begin, 1)
            file.write_text(json.dumps({"commit": commit(), "seconds": seconds, "found": found}))
        if file.exists():
            done[name] = json.loads(file.read_text())
    path = record.write(done, config.out, seconds=sum(part["seconds"] for part in done.values()))
    print(f"Written to {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, help="this one alone")
    parser.add_argument("--work", type=Path, help="folder of what is finished")
    parser.add_argument("--out", type=Path, help="folder of the JSON")
    asked = parser.parse_args()
    given = {k: getattr(asked, k) for k in ("work", "out") if getattr(asked, k) is not None}
    main(replace(Config(), **given), asked.part)
