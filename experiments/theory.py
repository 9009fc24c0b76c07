"""Carry out a study of `homotopy-deq theory` and publish what it says of the claims.

    python -m experiments.theory nngp
    python -m experiments.theory collapse

Writes experiments/results/theory_NAME.json: the settings, and each claim with its figure. Each
finished part is kept in --work, and the same call goes on where one was stopped.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from experiments.results import RESULTS, Record
from homotopy_deq.cli.report import counting
from homotopy_deq.theory.studies import CollapseStudy, NNGPStudy, carry_out

STUDIES = {"nngp": NNGPStudy, "collapse": CollapseStudy}


@dataclass(frozen=True)
class Config:
    """Which study; all else is its own."""

    study: str
    seed: int = 0


def main(config: Config, work: Path, out: Path = RESULTS, **settings: Any) -> Path:
    """Do the parts that are left, and write what they say."""
    torch.set_num_threads(1)
    record, console = Record(f"theory_{config.study}", config), Console()
    study = STUDIES[config.study](seed=config.seed, **settings)
    carry_out(study, work, counting)
    whole = json.loads((work / f"{study.name}.json").read_text())
    for claim in whole["claims"]:
        console.print(f"{'yes' if claim['holds'] else 'NO '}  {claim['says']}: {claim['found']}")
    result = {"settings": whole["settings"], "claims": whole["claims"]}
    path = record.write(result, out, seconds=sum(whole["seconds"].values()))
    console.print(f"Written to {path}")
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--seed", type=int, default=Config.seed)
    parser.add_argument("--work", type=Path, help="folder of what is done; runs/theory-STUDY")
    chosen = parser.parse_args()
    main(Config(chosen.study, chosen.seed), chosen.work or Path(f"runs/theory-{chosen.study}"))
