"""Compare all families of models on one data set: `homotopy-deq compare` with published settings.

    python -m experiments.compare                                         # digits, three seeds
    python -m experiments.compare --dataset fashion-mnist --data DIR      # one seed

On an idle core some 15 minutes, and 35. Every run is kept in --work and gone on with when the
command is given again; --minutes stops the trainings, which lose nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.kept import made, making
from experiments.results import RESULTS, Record
from homotopy_deq.cli.comparison.compare import compare, show
from homotopy_deq.cli.comparison.options import Compare
from homotopy_deq.cli.options import Machine

MODELS = (
    "deq,mdeq --hidden 20,homoode,homoode --no-rest-point,neural-ode,"
    "augmented-neural-ode --hidden 20,monotone --hidden 42,residual"
)
"""All families, their widths such that each has as many parameters as the others, to a tenth."""

BUDGETS: Mapping[str, Mapping[str, int]] = {
    "digits": {"seeds": 3, "epochs": 10},
    "fashion-mnist": {"seeds": 1, "epochs": 3, "limit": 10_000},
}


@dataclass(frozen=True)
class Config:
    """What is compared on what; None stands for the budget of the data set."""

    dataset: str = "digits"
    data: Path | None = None
    work: Path = Path("runs/compare")
    models: str = MODELS
    seeds: int | None = None
    epochs: int | None = None
    limit: int | None = None
    test_limit: int | None = None
    device: str | None = None
    jobs: int = 1
    minutes: float | None = None
    seed: int = 0


def main(config: Config, results: Path = RESULTS) -> None:
    """Do what is left of the comparison; write experiments/results/compare_DATASET.json."""
    name = f"compare_{config.dataset}"
    record = Record(name, config)
    asked = {k: getattr(config, k) for k in ("seeds", "epochs", "limit", "test_limit")}
    budget: dict[str, Any] = {**BUDGETS.get(config.dataset, {}), **_given(asked)}
    seeds = budget.pop("seeds", 1)
    settings = {**budget, "dataset": config.dataset, "data": config.data, "seed": config.seed}
    folder = config.work / config.dataset
    chosen = Compare(
        models=config.models,
        seeds=seeds,
        jobs=config.jobs,
        minutes=config.minutes,
        settings=_given(settings),
        out=folder,
        machine=Machine(cpu=config.device == "cpu"),
    )
    try:
        with making(folder):
            found = compare(chosen)
    except KeyboardInterrupt:
        raise SystemExit("Stopped: the same command goes on, nothing is lost.") from None
    show(found)
    kept = made([folder])
    file = record.write(
        {**found.body(), "calls killed, their last seconds unknown": kept.killed},
        results,
        started=kept.started,
        seconds=kept.seconds,
    )
    Console().print(f"Written to {file}; {found.left} runs are not done.", highlight=False)


def _given(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if value is not None}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default=Config.dataset)
    parser.add_argument("--data", type=Path, help="folder or zip file of the images")
    parser.add_argument("--work", type=Path, default=Config.work, help="folder of the runs")
    parser.add_argument("--models", default=MODELS, help="as homotopy-deq compare takes them")
    parser.add_argument("--seeds", type=int, help="runs of each model")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--limit", type=int, help="train images")
    parser.add_argument("--test-limit", type=int, help="test images")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="a GPU if there is one")
    parser.add_argument("--jobs", type=int, default=1, help="runs trained side by side")
    parser.add_argument("--minutes", type=float, help="of training in this call")
    chosen = vars(parser.parse_args())
    data = chosen.pop("data")
    main(Config(**chosen, data=None if data is None else data.resolve()))
