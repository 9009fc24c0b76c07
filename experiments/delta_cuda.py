"""Time the column step on a GPU against the dense product, with TF32 on and off.

    python -m experiments.delta_cuda

y + W d, where d is 0 outside a share of the columns, drawn at random: the Triton step, the gather
of the columns of W before the product (done anew, and once), and the faster of two dense products.
Medians of single calls and of replays of a CUDA graph, which leaves out what a call costs on the
host. Beside each time stands the largest error against double precision, relative to the largest
entry. Every finished case is written at once, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.results import RESULTS, Record


@dataclass(frozen=True)
class Config:
    """What is timed."""

    sizes: tuple[int, ...] = (2048, 4096)
    batches: tuple[int, ...] = (64, 256)
    densities: tuple[float, ...] = (0.1, 0.25, 0.5)
    repeats: int = 30
    seed: int = 0


def milliseconds(call: Callable[[], Tensor], repeats: int) -> float:
    """Return the median over single calls, by CUDA events."""
    for _ in range(3):
        call()
    spans = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        spans.append((begin, end))
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in spans)


def replayed(call: Callable[[], Tensor], repeats: int, calls: int = 20) -> float:
    """Return the median of one call in a CUDA graph of several."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return milliseconds(lambda: graph.replay() or torch.empty(0), repeats) / calls


def case(size: int, batch: int, tf32: bool, config: Config) -> dict[str, Any]:
    """Time one size with TF32 on or off, at all densities."""
    from homotopy_deq.acceleration.kernels import triton_columns as triton_step

    torch.backends.cuda.matmul.allow_tf32 = tf32
    g = torch.Generator("cuda").manual_seed(config.seed)
    make = lambda *shape: torch.randn(*shape, device="cuda", generator=g)  # noqa: E731
    weight, y, full = make(size, size) / size**0.5, make(batch, size), make(batch, size)
    weight_t = weight.t().contiguous()
    dense = {
        "linear": lambda: y + F.linear(full, weight),
        "addmm": lambda: torch.addmm(y, full, weight_t),
    }
    found: dict[str, Any] = {"dense": {}, "density": {}}
    for name, call in dense.items():
        found["dense"][name] = timed(call, config.repeats)
    best = {
        kind: min(each[kind] for each in found["dense"].values()) for kind in ("ms", "graph, ms")
    }
    for density in config.densities:
        count = round(density * size)
        index = torch.randperm(size, generator=g, device="cuda")[:count].sort().values
        mask = torch.zeros(size, device="cuda").index_fill_(0, index, 1)
        d, short = full * mask, index.int()
        panel = weight_t.index_select(0, index)
        exact = y.double() + d.double() @ weight_t.double()
        rows: dict[str, Any] = {"dense": {"error": error(torch.addmm(y, d, weight_t), exact)}}
        calls: dict[str, Callable[[], Tensor]] = {
            "gather and product": lambda d=d, index=index: torch.addmm(  # type: ignore[misc]
                y, d.index_select(1, index), weight_t.index_select(0, index)
            ),
            "gathered once": lambda d=d, index=index, panel=panel: torch.addmm(  # type: ignore[misc]
                y, d.index_select(1, index), panel
            ),
        }
        own = triton_step.tile(batch)
        for tile in sorted({own, (16, 32), (32, 32), (64, 16), (64, 32), (64, 64), (64, 128)}):
            name = f"triton {tile[0]} x {tile[1]}" if tile != own else "triton"
            calls[name] = lambda d=d, short=short, tile=tile: triton_step.column_step(  # type: ignore[misc]
                y, d, weight_t, short, tf32, *tile
            )
        for name, call in calls.items():
            row = {"error": error(call(), exact)} | timed(call, config.repeats)
            row |= {f"times faster, {kind}": best[kind] / row[kind] for kind in best}
            rows[name] = row
        found["density"][str(density)] = rows
    return found


def timed(call: Callable[[], Tensor], repeats: int) -> dict[str, float]:
    return {"ms": milliseconds(call, repeats), "graph, ms": replayed(call, repeats)}


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).abs().max() / exact.abs().max())


def main(config: Config, folder: Path = RESULTS) -> None:
    """Time what is not in the result yet, print it, and write delta_cuda.json."""
    if not torch.cuda.is_available():
        raise SystemExit("delta_cuda times a GPU, and there is none here.")
    record = Record("delta_cuda", config)
    written = folder / "delta_cuda.json"
    result = json.loads(written.read_text())["result"] if written.exists() else {}
    for size in config.sizes:
        for batch in config.batches:
            for tf32 in (False, True):
                name = f"H = {size}, B = {batch}, TF32 {'on' if tf32 else 'off'}"
                if name in result:
                    continue
                result[name] = found = case(size, batch, tf32, config)
                record.write(result, folder)
                print(name, {k: f"{v['graph, ms']:.4f} ms" for k, v in found["dense"].items()})
                for density, rows in found["density"].items():
                    print(f"  {density}: dense error {rows['dense']['error']:.1e}")
                    for kind, row in rows.items():
                        if kind != "dense":
                            print(
                                f"    {kind:20} {row['times faster, ms']:5.2f} x, in a graph "
                                f"{row['times faster, graph, ms']:5.2f} x ({row['graph, ms']:.4f} "
                                f"ms), error {row['error']:.1e}"
                            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=Config.repeats)
    main(Config(repeats=parser.parse_args().repeats))
