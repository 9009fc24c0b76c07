"""The commands of theory: what each is told. No torch is needed here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...settings.declare import at_least, setting
from ..options import Machine

HELP = "Measure what is known of DEQs in the limit of width, of training and of both."


@dataclass(frozen=True)
class Kept:
    """Where a study is kept."""

    PANEL: ClassVar[str] = "The study"

    out: Path | None = setting(
        None,
        "Folder for the figures and JSON. What it holds of the same settings is not done again. "
        "Default: runs/theory-NAME.",
        metavar="DIR",
    )
    overwrite: bool = setting(False, "Discard what --out holds.")
    seed: int = setting(0, "Of all that is drawn.", at_least(0))


@dataclass(frozen=True)
class NNGP:
    """Hold finite DEQs against their limit of infinite width, on the built-in digits.

    Covariance and tangent kernel against width, outputs against the Gaussian, least eigenvalues,
    width and depth exchanged, and regression with the kernels beside trained DEQs. Some four
    minutes on one core.
    """

    kept: Kept = Kept()
    images: int = setting(
        1000, "Digits that are learnt; the others test.", at_least(20), panel=Kept.PANEL
    )
    networks: int = setting(
        2000, "Random networks whose outputs are tested.", at_least(20), panel=Kept.PANEL
    )
    machine: Machine = Machine()


@dataclass(frozen=True)
class Flow:
    """Follow the gradient flow of linear and single-index DEQs: what it conserves, its rates, the
    step sizes that it bears, truncated backward passes, and the explicit peer. Half a minute.
    """

    kept: Kept = Kept()
    epochs: int = setting(400, "Steps of gradient descent.", at_least(1), panel=Kept.PANEL)
    machine: Machine = Machine()


@dataclass(frozen=True)
class Collapse:
    """Follow neural collapse: of features that are free, with the bound of the loss that they
    attain and the collapse of the minority, and of a DEQ and an explicit peer on the digits. Some
    three minutes on one core.
    """

    kept: Kept = Kept()
    steps: int = setting(
        300, "Training steps; balanced classes get twice as many.", at_least(1), panel=Kept.PANEL
    )
    ratio: int = setting(
        50,
        "How many times more images the five large classes have than the five small ones.",
        at_least(2),
        panel=Kept.PANEL,
    )
    networks: int = setting(
        3, "Networks of a kind that learn unequal classes.", at_least(1), panel=Kept.PANEL
    )
    machine: Machine = Machine()
