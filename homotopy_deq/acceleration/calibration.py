"""Measure what the kernels cost on this machine, once, and keep it in a file.

    python -m homotopy_deq.acceleration     # measure anew, and say where it is kept

The file lies in $HOMOTOPY_DEQ_CACHE, else in $XDG_CACHE_HOME/homotopy-deq, else in
~/.cache/homotopy-deq. It names the machine, its threads and the version of torch. One that cannot
be read, or that is of another machine, is measured anew.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..machine import processor
from .cost import Costs, Line, Point

KINDS = ("matrix cpu float32", "matrix cpu float64", "tiles cpu float32", "planes cpu float32")
FORMAT = 4


def folder() -> Path:
    """Return where the file is kept."""
    own, shared = os.environ.get("HOMOTOPY_DEQ_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    try:
        return (Path(shared) if shared else Path.home() / ".cache") / "homotopy-deq"
    except RuntimeError as error:
        raise FileNotFoundError("there is no home folder") from error


def machine() -> dict[str, Any]:
    """Describe what the costs depend on."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    name, count = processor()
    return {
        "format": FORMAT,
        "processor": f"{name} x {count or os.cpu_count()}",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "gpu": gpu,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def measured(kind: str) -> Sequence[Point]:
    """Return what is known of a kind of product, measured now where nothing is kept of it.

    Arguments:
        kind: the product, the device and the dtype, as in "matrix cpu float32".
    """
    return _measured(kind, torch.get_num_threads())


@cache
def _measured(kind: str, threads: int) -> Sequence[Point]:
    kept = read()
    if kind not in kept:
        from .kernels import timing

        kept = {**kept, kind: timing.measure(kind)}
        write(kept)
    return kept[kind]


def calibrate() -> Path:
    """Measure every kind of this machine anew, and return the file it is kept in."""
    from .kernels import timing

    kinds = KINDS + (("matrix cuda float32",) if torch.cuda.is_available() else ())
    write({kind: timing.measure(kind) for kind in kinds})
    _measured.cache_clear()
    return path()


def path() -> Path:
    """Return the file for this number of threads."""
    return folder() / f"costs-{torch.get_num_threads()}-threads.json"


def read() -> dict[str, Sequence[Point]]:
    """Return what is kept of this machine; nothing where the file is damaged or another's."""
    try:
        found = json.loads(path().read_text(encoding="utf-8"))
        if found["machine"] != machine():
            return {}
        return {kind: [_point(each) for each in rows] for kind, rows in found["kinds"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def write(kinds: dict[str, Sequence[Point]]) -> None:
    """Keep costs in the file; where that cannot be written, say so and go on."""
    body = {
        "machine": machine(),
        "kinds": {kind: [asdict(point) for point in points] for kind, points in kinds.items()},
    }
    part: Path | None = None
    try:
        path().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=path().parent, suffix=".part", delete=False
        ) as file:
            part = Path(file.name)
            json.dump(body, file, indent=1)
        os.replace(part, path())
    except OSError as error:
        if part is not None:
            part.unlink(missing_ok=True)
        warnings.warn(
            f"The costs of this machine could not be kept ({error}), and will be "
            "measured anew in every process; set HOMOTOPY_DEQ_CACHE to a folder to write in.",
            stacklevel=2,
        )


def _point(row: dict[str, Any]) -> Point:
    given = row["costs"]
    lines = {name: Line(**given[name]) for name in ("fresh", "kept", "run")}
    costs = Costs(given["dense"], given["book"], given["look"], **lines)
    point = Point(row["batch"], row["units"], row["work"], costs)
    sizes = point.batch, point.units, point.work, costs.dense
    others = costs.book, costs.look, *(n for line in lines.values() for n in (line.call, line.unit))
    if not all(isinstance(n, int | float) and 0 <= n < math.inf for n in (*sizes, *others)):
        raise ValueError("costs must be finite numbers")
    if not all(sizes):
        raise ValueError("costs must be above 0")
    return point
