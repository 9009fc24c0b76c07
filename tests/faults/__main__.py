"""python -m tests.faults --faults 500: inject faults, and print what came of them by kind."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from .harness import inject, table

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--faults", type=int, default=500, help="how many")
parser.add_argument("--seed", type=int, default=0, help="chooses them")
chosen = parser.parse_args()
with tempfile.TemporaryDirectory() as folder:
    found = inject(chosen.faults, chosen.seed, Path(folder))
print(table(found))
for fault in found:
    if fault.broken:
        print(f"{fault.store}, {fault.kind} ({fault.about}): {fault.outcome}", file=sys.stderr)
sys.exit(any(fault.broken for fault in found))
