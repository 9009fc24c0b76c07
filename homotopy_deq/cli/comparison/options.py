"""The command that compares: what it is told. No torch is needed here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...settings import Settings
from ...settings.data import Place
from ...settings.declare import above, at_least, given, setting
from ..options import Machine


@dataclass(frozen=True)
class Compare:
    """Train families of models with one budget and several seeds, and show them in one table.

    Every option of train may be given and holds for all models that have it. Each model and seed
    is a run in DIR, as train writes it. Stopped or killed, the same command goes on and loses
    nothing. DIR then holds compare.json, compare.md and compare.png.

    A step is measured when the training is over, one run at a time: evaluations of the map forward,
    products with its Jacobian back, seconds, and memory beyond model and images.
    """

    PANEL: ClassVar[str] = "The comparison"

    models: str | None = setting(
        None,
        "Names of models with commas between them, each with options of its own if need be: "
        '"deq,homoode --no-rest-point,monotone --hidden 40". Default: all that have no Lipschitz '
        "bound, whose training is another, and that take the images.",
    )
    seeds: int = setting(3, "Runs of each model, of --seed and those after it.", at_least(1))
    swap: list[str] | None = setting(
        None,
        "Solver that the trained weights are tested under, too; once or more. Default: anderson, "
        "dopri5 and rk4, where the model has an answer by them.",
        metavar="SOLVER",
    )
    jobs: int = setting(
        1, "Runs trained side by side; with more than one give --threads, too.", at_least(1)
    )
    minutes: float | None = setting(
        None, "Stop the trainings after so long; what is done counts.", above(0)
    )
    settings: Mapping[str, Any] = given(Settings, but=("model",))
    download: bool = setting(
        False, "Fetch the data set into --data if it is missing.", panel=Place.PANEL
    )
    out: Path | None = setting(
        None, "Folder of the runs and the table. Default: runs/compare-DATASET.", metavar="DIR"
    )
    machine: Machine = Machine()
