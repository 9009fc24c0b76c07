"""What computes."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch

MIB = 2.0**20


def processor() -> tuple[str, int]:
    """Return the name of the processor, and how many logical ones Linux lists (else 0)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), 0
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return (named[0] if named else platform.machine()), len(named)


def peak_memory(device: torch.device) -> Callable[[], float]:
    """Return a function that says by how many MiB memory has grown at its peak since this call.

    On a GPU that is what tensors take. On a CPU it is what the process takes: measure in a young
    process, as memory that was given back before is taken again unseen. Where the system does not
    say the peak since a moment, it is what lies above the peak of the process's whole life.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        return lambda: (torch.cuda.max_memory_allocated(device) - held) / MIB
    try:
        Path("/proc/self/clear_refs").write_text(
            "5", encoding="utf-8"
        )  # the peak is forgotten; see proc(5)
        before = _resident("VmRSS")
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        life = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return lambda: (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - life) * unit / MIB
    return lambda: _resident("VmHWM") - before


def _resident(name: str) -> float:
    """Return a line of Linux's account of this process, in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024
