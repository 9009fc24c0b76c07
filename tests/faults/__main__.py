"""python -m tests.faults --faults 500: inject faults, and say what came of them by kind.

What came of them is written to experiments/results/faults.json.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.results import Record

from .harness import by_kind, inject


@dataclass(frozen=True)
class Config:
    """How many faults.

    Arguments:
        faults: how many.
        seed: chooses them.
    """

    faults: int = 500
    seed: int = 0


def main(config: Config) -> int:
    """Inject the faults, print and write what came of them, and return how many did harm."""
    record, console = Record("faults", config), Console()
    with tempfile.TemporaryDirectory() as folder:
        found = inject(config.faults, config.seed, Path(folder))
    rows = by_kind(found)
    table = Table("fault", *rows["all"])
    for kind, row in rows.items():
        table.add_row(kind, *(str(n or "") for n in row.values()))
    console.print(table)
    broken = [f"{f.store}, {f.kind} ({f.about}): {f.outcome}" for f in found if f.broken]
    for text in broken:
        print(text, file=sys.stderr)
    console.print(f"Written to {record.write({'by kind': rows, 'broken': broken})}")
    return len(broken)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--faults", type=int, default=Config.faults, help="how many")
    parser.add_argument("--seed", type=int, default=Config.seed, help="chooses them")
    chosen = parser.parse_args()
    sys.exit(bool(main(Config(chosen.faults, chosen.seed))))
