"""What computes."""

from __future__ import annotations

import platform
from pathlib import Path


def processor() -> tuple[str, int]:
    """Return the name of the processor, and how many logical ones Linux lists (else 0)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), 0
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return (named[0] if named else platform.machine()), len(named)
