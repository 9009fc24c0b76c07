"""What tests of the commands share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from homotopy_deq.training import CHECKPOINT, load_checkpoint, save_checkpoint
from tests.test_cli import done

LINES, TABLE = "certificates.jsonl", "certificates.tsv"


def certify(run: Path, out: Path, *more: object, n: int = 128, limit: int = 4) -> str:
    return done("certify", run, "--out", out, "--n", n, "--limit", limit, "--cpu", *more)


def altered(run: Path, folder: Path, change: float, at: str = "best.stem.0.weight") -> Path:
    """Copy a run, one of its weights multiplied by a number."""
    stored = load_checkpoint(run / CHECKPOINT)
    tensors = {**stored.tensors, at: stored.tensors[at] * change}
    save_checkpoint(folder / CHECKPOINT, replace(stored, tensors=tensors))
    return folder
