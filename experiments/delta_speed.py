"""Time what delta updates are worth on a CPU, at equal verified residual.

    python -m experiments.delta_speed

Steps, in which a share of the columns or tiles has changed, against the faster of two dense steps.
Whole solves of models whose coordinates converge at different speeds, against dense Picard and
Anderson. Chosen kernels against the same solver with dense ones, small and homogeneous models
included. Increments in bfloat16. Calls are timed in turn; medians. Residuals are those of the
cells in double precision. Each part is kept as it is measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from experiments.delta_models import Images, layer, race, residual, solved, uneven
from experiments.parts import Parts
from experiments.results import RESULTS, Record
from homotopy_deq.acceleration import Anchored, Auto, Convolution, Half, Simulated, delta
from homotopy_deq.acceleration.cost import ALWAYS
from homotopy_deq.acceleration.layers import Memory, moved
from solvers import Anderson
from solvers.delta import Blocks, DeltaAnderson
from solvers.delta.together import Limit

SPARSE = Auto(costs=lambda *_: ALWAYS)
"""Kernels that never fall back to the dense product."""


@dataclass(frozen=True)
class Config:
    """What is timed."""

    columns: tuple[tuple[int, int], ...] = ((2048, 64), (2048, 256), (1024, 64), (2048, 1))
    tiles: tuple[tuple[int, int, int], ...] = ((64, 64, 4), (128, 32, 8), (256, 32, 4))
    densities: tuple[float, ...] = (0.1, 0.25, 0.5)
    solves: tuple[tuple[int, int, float], ...] = ((2048, 64, 1 / 16), (2048, 64, 1 / 8))
    grid: tuple[int, ...] = (32, 128, 512, 1024, 2048)
    batches: tuple[int, ...] = (1, 16, 64)
    images: tuple[tuple[int, int], ...] = ((8, 16), (32, 32), (64, 32))
    halves: tuple[tuple[int, int], ...] = ((2048, 64), (2048, 256))
    theta: float = 0.3
    rtol: float = 1e-5
    rounds: int = 11
    threads: int = 1
    work: Path = Path("runs/delta_speed")
    seed: int = 0


def columns(size: int, batch: int, config: Config) -> dict[str, Any]:
    """Time z <- tanh(W z + b): densely, and with a share of the columns changed."""
    weight, (z, r) = torch.randn(size, size) / (2 * size**0.5), torch.randn(2, batch, size)
    turned, bias = weight.T.contiguous(), torch.randn(size)
    calls: dict[str, Callable[[], Any]] = {
        "dense product, linear": lambda: F.linear(z, weight),
        "dense product, addmm": lambda: torch.addmm(bias, z, turned),
        "dense step, linear": lambda: F.linear(z, weight, bias).tanh(),
        "dense step, addmm": lambda: torch.addmm(bias, z, turned).tanh(),
    }
    for density in config.densities:
        index = torch.randperm(size)[: round(density * size)]
        change = torch.zeros_like(r).index_copy_(1, index, torch.randn(batch, len(index)))
        limit = Limit(1e-9, Blocks())
        calls |= _steps(SPARSE.linear(weight), limit, r, r + change, bias, f"{density}")
    return _against_dense(race(calls, config.rounds, 0.002))


def tiles(channels: int, side: int, batch: int, config: Config) -> dict[str, Any]:
    """Time the same of images, with a share of the tiles changed within."""
    kernel = torch.randn(channels, channels, 3, 3) / (6 * channels**0.5)
    r = torch.randn(batch, channels, side, side).contiguous(memory_format=torch.channels_last)
    plain, bias = r.contiguous(), torch.randn(channels)
    column = bias.view(-1, 1, 1)
    last = kernel.contiguous(memory_format=torch.channels_last)
    calls: dict[str, Callable[[], Any]] = {
        "dense product, channels first": lambda: F.conv2d(plain, kernel, padding=1),
        "dense product, channels last": lambda: F.conv2d(r, last, padding=1),
        "dense step, channels first": lambda: F.conv2d(plain, kernel, bias, padding=1).tanh(),
        "dense step, channels last": lambda: F.conv2d(r, last, bias, padding=1).tanh(),
    }
    count = batch * (side // 8) ** 2
    inner = F.pad(torch.ones(6, 6), (1, 1, 1, 1)).repeat(side // 8, side // 8)
    for density in config.densities:
        some = torch.zeros(count).index_fill_(0, torch.randperm(count)[: round(density * count)], 1)
        mask = some.view(batch, 1, side // 8, side // 8)
        mask = mask.repeat_interleave(8, 2).repeat_interleave(8, 3) * inner
        convolution = Convolution(kernel, padding=(1, 1, 1, 1))
        product, pixels = SPARSE.convolution(convolution), Limit(1e-9, Blocks(1))
        calls |= _steps(product, pixels, r, r + r * mask, column, f"{density}")
    return _against_dense(race(calls, config.rounds))


def _steps(
    product: Any, within: Limit, r: Tensor, f: Tensor, bias: Tensor, name: str
) -> dict[str, Callable[[], Any]]:
    """Return the product alone, with a new gather and a kept one, and a whole step.

    Arguments:
        product: W.
        within: the threshold, and what moves together.
        r: what was propagated last.
        f: the map's value there.
        bias: b.
        name: of the calls.
    """
    last, active = Memory(r, product.dense(r)), within.far(f - r)

    def kept() -> Any:
        return product.moved(last.product, r, f, active)

    def fresh() -> Any:
        product.forget()
        return kept()

    def step() -> Any:
        memory, _ = moved(product, last, f, within)
        return (memory.product + bias).tanh_()

    calls = {f"{name}, product": kept, f"{name}, step": step}
    return calls | (
        {f"{name}, product, gathered anew": fresh} if hasattr(product, "forget") else {}
    )


def _against_dense(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Compare products with the faster dense product, and steps with the faster dense step."""
    dense = {
        kind: min(row["ms"] for name, row in found.items() if name.startswith(f"dense {kind}"))
        for kind in ("product", "step")
    }
    return {
        name: row | {"times faster": dense["step" if "step" in name else "product"] / row["ms"]}
        for name, row in found.items()
    }


def solves(size: int, batch: int, share: float, config: Config) -> dict[str, Any]:
    """Time whole solves of an uneven model."""
    cell, x = uneven(size, share=share), torch.randn(batch, 32)
    base = layer(cell, config.rtol)
    mixing = DeltaAnderson(rtol=config.rtol, together=Blocks())
    ways = {
        "Picard": base,
        "Anderson": base.with_solver(Anderson(rtol=config.rtol)),
        "DeltaPicard": delta(base, theta=config.theta),
        "DeltaAnderson": delta(base, theta=config.theta, solver=mixing),
    }
    return _raced(ways, cell, x, "Picard", config)


def halves(size: int, batch: int, config: Config) -> dict[str, Any]:
    """Time solves with increments in bfloat16 around anchors in single precision."""
    cell, x = uneven(size, share=1.0, slow=0.9), torch.randn(batch, 32)
    base = layer(cell, config.rtol)
    ways = {"Picard": base, "Anderson": base.with_solver(Anderson(rtol=config.rtol))}
    for name, way in list(ways.items()):
        solver = Anchored(rtol=config.rtol, inner=way.solver)
        ways[f"{name}, bfloat16 increments"] = delta(base, solver=solver, products=Half())
    return _raced(ways, cell, x, "Picard", config)


def dispatch(cell: Any, x: Tensor, config: Config) -> dict[str, Any]:
    """Time a solver with chosen kernels against the same one with dense kernels."""
    base = layer(cell, 1e-3)
    ways = {
        "Picard": base,
        "Anderson": base.with_solver(Anderson(rtol=1e-3)),
        "dense": delta(base, theta=config.theta, products=Simulated()),
        "chosen": delta(base, theta=config.theta, products=Auto()),
    }
    return _raced(ways, cell, x, "dense", config, least=0.01)


def _raced(
    ways: dict[str, Any], cell: Any, x: Tensor, baseline: str, config: Config, least: float = 0.0
) -> dict[str, Any]:
    found = {}
    for name, way in ways.items():
        solution = way.solve(x)
        found[name] = solved(solution) | {"residual": residual(cell, x, solution.value)}
    times = race({n: lambda w=w: w.solve(x) for n, w in ways.items()}, config.rounds, least)  # type: ignore[misc]
    for name, row in times.items():
        found[name] |= row | {"times faster": times[baseline]["ms"] / row["ms"]}
    return found


def main(config: Config, folder: Path = RESULTS) -> None:
    """Measure what is not kept yet, print it, and write experiments/results/delta_speed.json."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    record, parts, console = Record("delta_speed", config), Parts(config.work, config), Console()
    jobs: dict[str, dict[str, Callable[[], Any]]] = {"columns": {}, "tiles": {}, "solves": {}}
    for case in config.columns:
        name = "H = {}, B = {}".format(*case)
        jobs["columns"][name] = lambda case=case: columns(*case, config)  # type: ignore[misc]
    for image in config.tiles:
        name = "{0} channels, {1} x {1}, B = {2}".format(*image)
        jobs["tiles"][name] = lambda image=image: tiles(*image, config)  # type: ignore[misc]
    for model in config.solves:
        name = "H = {}, B = {}, {:.3f} slow".format(*model)
        jobs["solves"][name] = lambda model=model: solves(*model, config)  # type: ignore[misc]
    jobs["bfloat16"] = {
        "H = {}, B = {}".format(*case): lambda case=case: halves(*case, config)  # type: ignore[misc]
        for case in config.halves
    }
    jobs["dispatch"] = {}
    for size in config.grid:
        for batch in config.batches:
            for share in (1 / 16, 1.0):
                name = f"H = {size}, B = {batch}, {share:.3f} slow"
                jobs["dispatch"][name] = lambda size=size, batch=batch, share=share: dispatch(  # type: ignore[misc]
                    uneven(size, share=share, slow=0.9), torch.randn(batch, 32), config
                )
    for channels, side in config.images:
        jobs["dispatch"][f"{channels} channels, {side} x {side}, B = 4"] = (
            lambda channels=channels, side=side: dispatch(  # type: ignore[misc]
                Images(channels), torch.randn(4, channels, side, side), config
            )
        )
    result: dict[str, Any] = {}
    with torch.no_grad():
        for kind, each in jobs.items():
            result[kind] = {}
            for name, job in each.items():
                found = parts(f"{kind}, {name}".replace(" ", "_").replace("/", "-"), job)
                result[kind][name] = found
                shown = {
                    way: f"{row['ms']:.2f} ms, {row['times faster']:.2f} x"
                    for way, row in found.items()
                }
                console.print(f"{kind}: {name}", shown, highlight=False)
    ratios = {n: row["chosen"]["times the one before"] for n, row in result["dispatch"].items()}
    slowest = max(ratios, key=lambda name: ratios[name])
    result["slowest choice, times the dense"] = {slowest: ratios[slowest]}
    console.print(f"slowest choice: {ratios[slowest]:.3f} x dense, at {slowest}")
    console.print(f"Written to {record.write(result, folder)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=Config.rounds)
    parser.add_argument("--threads", type=int, default=Config.threads)
    parser.add_argument("--work", type=Path, default=Config.work)
    chosen = parser.parse_args()
    main(Config(rounds=chosen.rounds, threads=chosen.threads, work=chosen.work))
