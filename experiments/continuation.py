"""Follow the branches of classical problems and set what is found beside the known values.

    python -m experiments.continuation

Writes experiments/results/continuation.json and draws four branches in docs/images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments import classical as problems
from experiments.results import IMAGES, Record, bare, plain
from homotopy_deq.plotting import branch_figure, save
from solvers import ODE, ArcLength, Equilibrium, InitialValue, Status, solve
from solvers.homotopy import (
    Branch,
    Continuation,
    FixedPoint,
    Newton,
    StepControl,
    trace,
)
from solvers.homotopy.stability import leading_eigenvalues
from solvers.homotopy.trace import TRACKER


@dataclass(frozen=True)
class Config:
    seed: int = 0
    images: Path = IMAGES


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def short(steps: int) -> ArcLength:
    return replace(TRACKER, max_steps=steps)


@dataclass(frozen=True)
class Line:
    """A quantity, what we found, what is known, and how far apart they may be."""

    problem: str
    quantity: str
    ours: float | str
    reference: float | str
    tolerance: float = 0.0

    @property
    def ok(self) -> bool:
        if isinstance(self.ours, str) or isinstance(self.reference, str):
            return self.ours == self.reference
        return abs(self.ours - self.reference) <= self.tolerance

    def row(self) -> dict[str, Any]:
        return {**self.__dict__, "ok": self.ok}


def bratu_line() -> Iterator[Line]:
    a = 1.1996786402577  # a = coth a
    (branch,) = trace(
        problems.bratu(problems.chebyshev(48)), zeros(1, 47), span=(0, 5), tracker=short(60)
    )
    (fold,) = branch.folds
    name = "1D Bratu, Chebyshev 48"
    yield Line(name, "fold lambda", fold.lam, 3.5138307191252, 5e-13)
    yield Line(name, "fold lambda, 8 (a^2 - 1)", fold.lam, 8 * (a * a - 1), 1e-12)
    # u is flat about its maximum, which is a collocation point; it is off by first order in the
    # error of the fold's arclength, lambda only by second.
    yield Line(name, "fold u_max", float(fold.z.max()), 1.1868421686344, 2e-9)
    for lam, known in ((1, (0.1405392144, 4.0914672462)), (2, (0.3289524213, 2.8955312655))):
        for ours, reference in zip(branch.roots(lam).amax(1).tolist(), known, strict=True):
            yield Line(name, f"u_max at lambda = {lam}", ours, reference, 6e-11)
    known_folds = {16: 3.5074983785, 32: 3.5121515523, 64: 3.5133980023, 128: 3.5137208622}
    for n, reference in known_folds.items():
        (branch,) = trace(
            problems.bratu(problems.second_difference(n)),
            zeros(1, n), span=(0, 5), tracker=short(60),
        )  # fmt: skip
        yield Line(f"1D Bratu, N={n}", "fold lambda", branch.folds[0].lam, reference, 6e-11)


def bratu_square() -> Iterator[Line]:
    for n, reference in {15: 6.802174, 31: 6.806653, 63: 6.807757}.items():
        (branch,) = trace(
            problems.bratu_square(problems.second_difference(n)),
            zeros(1, n, n), span=(0, 8), tracker=short(30),
        )  # fmt: skip
        yield Line(f"2D Bratu, N={n}", "fold lambda", branch.folds[0].lam, reference, 6e-7)
    (branch,) = trace(
        problems.bratu_square(problems.chebyshev(20)),
        zeros(1, 19, 19), span=(0, 8), tracker=short(30),
    )  # fmt: skip
    yield Line(
        "2D Bratu, Chebyshev 20", "fold lambda", branch.folds[0].lam, 6.808124422, 6e-10
    )  # fmt: skip


def chandrasekhar() -> Iterator[Line]:
    name = "Chandrasekhar, N=100"
    family = problems.chandrasekhar(100)
    (branch,) = trace(family, zeros(1, 100) + 1, span=(0, 1.5), tracker=short(150))
    # At the fold Newton's method reaches only about sqrt(eps), in H; c is exact to second order.
    yield Line(name, "fold c", branch.folds[0].lam, 1.0, 1e-10)
    yield Line(name, "sum w H at the fold", float(branch.folds[0].z.mean()), 2.0, 1e-7)
    for c in (0.5, 0.9):
        lower, upper = branch.roots(c)
        root = math.sqrt(1 - c)
        yield Line(name, f"sum w H, c={c}", float(lower.mean()), 2 / c * (1 - root), 1e-11)
        yield Line(name, f"sum w H above, c={c}", float(upper.mean()), 2 / c * (1 + root), 1e-11)
    yield Line(name, "sum w H, c=0.9 (table)", float(lower.mean()), 1.519493853296, 6e-13)
    yield Line(name, "H_N, c=0.9", float(lower[-1]), 1.847721717857, 6e-13)
    at = Equilibrium(lambda z: family(z, zeros(1) + 0.9))
    radius = leading_eigenvalues(at, lower[None], 1).abs().max()
    yield Line(name, "spectral radius of f', c=0.9", float(radius), 0.48412, 6e-6)


def hysteresis() -> Iterator[Line]:
    known = {2.0: (0.7071067812, -0.5328399754), 4.0: (0.8660254038, -2.1471437182)}
    for n in (1, 8):
        for a, (z, lam) in known.items():
            (branch,) = trace(
                problems.s_curve(a, n), zeros(1, n) + 1, lam=4, direction=-1, span=(-4, 4)
            )
            name = f"z = tanh({a:g} z + lambda), n={n}"
            for sign, fold in zip((1, -1), branch.folds, strict=True):
                yield Line(name, "fold lambda", fold.lam, sign * lam, 6e-11)
                yield Line(name, "fold z", float(fold.z[0]), sign * z, 1e-8)
    (branch,) = trace(problems.cubic(), zeros(1, 1) - 2.1038)
    for fold, u, lam in zip(branch.folds, (-1, 1), (5 / 6, 1 / 6), strict=True):
        yield Line("cubic", "fold lambda", fold.lam, lam, 1e-12)
        yield Line("cubic", "fold u", float(fold.z[0]), u, 1e-8)


def freudenstein_roth() -> Iterator[Line]:
    problem, z0 = problems.freudenstein_roth(), torch.tensor([[0.5, -2.0]], dtype=torch.float64)
    tracker = replace(TRACKER, control=StepControl(ds=0.05))
    (branch,) = trace(Newton().of(problem, z0), z0, span=(-9, 1), tracker=tracker)
    name = "Freudenstein-Roth, Newton homotopy"
    for fold, lam in zip(branch.folds, (0.587, -0.686), strict=True):
        yield Line(name, "fold lambda", fold.lam, lam, 6e-4)
    found = solve(problem, ArcLength(homotopy=Newton(), rtol=1e-12), z0)
    for k, reference in enumerate((5.0, 4.0)):
        yield Line(name, "xy"[k], float(found.value[0, k]), reference, 1e-10)
    least = torch.tensor([[11.412779, -0.896805]], dtype=torch.float64)
    stalls = problem.residual(least)
    slope = torch.autograd.functional.jacobian(
        lambda z: problem.residual(z).square().sum() / 2, least
    )
    yield Line(
        "Freudenstein-Roth", "gradient of ||F||^2 / 2 where least squares stalls",
        float(slope.norm() / stalls.square().sum()), 0.0, 1e-4,
    )  # fmt: skip


def chan() -> Iterator[Line]:
    known = {0.01: (4.0411604290, 3.1556507316), 0.0: (4.0675621641, 3.1602002495)}
    for edge, folds in known.items():
        (branch,) = trace(problems.chan(101, edge), zeros(1, 99) + edge, span=(0, 5))
        for fold, reference in zip(branch.folds, folds, strict=True):
            yield Line(f"Chan, n=101, beta={edge}", "fold alpha", fold.lam, reference, 6e-11)


def expected_failures() -> Iterator[Line]:
    problem, z0 = problems.parabola(), zeros(1, 1) - 2
    name = "x^2 - 1 from -2"
    (branch,) = trace(FixedPoint().of(problem, z0), z0)
    yield Line(name, "fixed-point homotopy, fold", branch.folds[0].lam, 0.1181460, 6e-8)
    found = solve(problem, ArcLength(), z0)
    yield Line(name, "fixed-point homotopy, ArcLength", _status(found.status), "LOST_PATH")
    found = solve(problem, Continuation(), z0)
    yield Line(name, "fixed-point homotopy, natural", _status(found.status), "STEP_TOO_SMALL")
    found = solve(problem, ArcLength(homotopy=Newton(), rtol=1e-12), z0)
    yield Line(name, "Newton homotopy, ArcLength", _status(found.status), "CONVERGED")
    yield Line(name, "Newton homotopy, root", float(found.value[0, 0]), -1.0, 1e-11)


def linear(seed: int) -> Iterator[Line]:
    generator = torch.Generator().manual_seed(seed)
    n = 12
    a = torch.randn(n, n, generator=generator, dtype=torch.float64) / (2 * math.sqrt(n))
    x, z0 = (torch.randn(1, n, generator=generator, dtype=torch.float64) for _ in range(2))
    eye = torch.eye(n, dtype=torch.float64)
    problem = Equilibrium(lambda z: z @ a.T + x)
    (branch,) = trace(FixedPoint().of(problem, z0), z0)
    worst = max(
        float((z - torch.linalg.solve(eye - lam * a, (1 - lam) * z0[0] + lam * x[0])).norm())
        for z, lam in zip(branch.z, branch.lam, strict=True)
    )
    yield Line("linear", "distance from the path in closed form", worst, 0.0, 1e-6)
    rest = torch.linalg.solve(eye - a, x[0])
    flow = InitialValue(lambda t, z: problem.residual(z), 0.0, 2.0)
    end = solve(flow, ODE(method="dopri5", rtol=1e-11, atol=1e-11), z0).value[0]
    exact = rest + torch.linalg.matrix_exp(-2 * (eye - a)) @ (z0[0] - rest)
    yield Line("linear", "error of the flow at t = 2", float((end - exact).norm()), 0.0, 1e-9)


def pictures(folder: Path) -> Iterator[Path]:
    def branch(family: Any, z0: Tensor, steps: int, **settings: Any) -> Branch:
        return trace(family, z0, tracker=short(steps), eigenvalues=1, **settings)[0]

    curves = {
        f"a = {a:g}": branch(
            problems.s_curve(a), zeros(1, 1) + 1, 300, lam=3.0, direction=-1, span=(-3, 3)
        )
        for a in (0.8, 2.0, 4.0)
    }
    name = "z = tanh(a z + lambda)"
    yield save(branch_figure(curves, lambda z: z[:, 0], ylabel=name), folder / "branch_s_curve.png")
    line = branch(problems.bratu(problems.second_difference(63)), zeros(1, 63), 38, span=(0, 5))
    yield save(branch_figure({"1D Bratu, N = 63": line}), folder / "branch_bratu_1d.png")
    square = branch(
        problems.bratu_square(problems.second_difference(15)), zeros(1, 15, 15), 40, span=(0, 9)
    )
    yield save(branch_figure({"2D Bratu, N = 15": square}), folder / "branch_bratu_2d.png")
    radiation = branch(problems.chandrasekhar(100), zeros(1, 100) + 1, 60, span=(0, 1.5))
    yield save(
        branch_figure(
            {"Chandrasekhar, N = 100": radiation}, lambda z: z.mean(1), xlabel="c",
            ylabel="mean of H",
        ),
        folder / "branch_chandrasekhar.png",
    )  # fmt: skip


def _status(code: Tensor) -> str:
    return Status(int(code[0])).name


def main(config: Config = Config()) -> None:  # noqa: B008  (frozen)
    torch.set_num_threads(1)
    record = Record("continuation", config)
    parts = (
        bratu_line(), bratu_square(), chandrasekhar(), hysteresis(), freudenstein_roth(), chan(),
        expected_failures(), linear(config.seed),
    )  # fmt: skip
    lines = []
    for part in parts:
        for line in part:
            lines.append(line)
            print(f"{'ok  ' if line.ok else 'MISS'} {line.problem}: {line.quantity} = {line.ours} "
                  f"(known: {line.reference}, to {line.tolerance:g})", flush=True)  # fmt: skip
    drawn = [plain(path) for path in pictures(config.images)]
    met = sum(line.ok for line in lines)
    print(f"{met} of {len(lines)} agree")
    record.write({"agree": met, "of": len(lines), "lines": [line.row() for line in lines],
                  "figures": drawn})  # fmt: skip


if __name__ == "__main__":
    bare(__doc__)
    main()
