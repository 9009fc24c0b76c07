"""Start several processes of one program, as a user does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from homotopy_deq.training import load_checkpoint

ROOT = Path(__file__).parents[2]
CLI = ("-m", "homotopy_deq.cli")


def start(ranks: int, *words: str, folder: Path, **how: Any) -> subprocess.Popen[str]:
    """Start `words` in so many processes by torchrun, or plainly as one, in a folder."""
    many = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, *(many if ranks > 1 else ()), *words],
        env=environment, cwd=folder, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, **how,
    )  # fmt: skip


def finish(ranks: int, *words: str, folder: Path) -> str:
    """Run `words` in so many processes to their end, and return what they print."""
    process = start(ranks, *words, folder=folder)
    told, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    return told


def wait_for_mid_epoch(process: subprocess.Popen[Any], checkpoint: Path) -> None:
    """Return once a run's checkpoint tells of 2 batches of its second epoch, or the run is over."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if checkpoint.exists():
            place = load_checkpoint(checkpoint).meta["place"]
            if place["epoch"] == 1 and place["batch"] >= 2:
                return
