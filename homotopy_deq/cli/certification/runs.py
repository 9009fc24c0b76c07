"""Certification runs on disk, as report, plot-certified and attack read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...certification import Certificate, Journal, read
from ...certification.alone import Alone
from ...certification.journal import ALONE, CONFIG, SLOPE
from ...certification.summary import Summary


@dataclass(frozen=True)
class CertifiedRun:
    """A run of certify or decide.

    Arguments:
        folder: that it was read from.
        config: what decided its results.
        certificates: in ascending order of the images.
        summary: of them.
    """

    folder: Path
    config: dict[str, Any]
    certificates: Sequence[Certificate]
    summary: Summary

    @classmethod
    def of(cls, folder: Path, *, unfinished: bool = False) -> CertifiedRun:
        """Read a folder that holds one run; errors as in `read`."""
        config, certificates, seconds = read(folder, unfinished=unfinished)
        if not certificates:
            raise ValueError(f"{folder} has no finished image yet: wait, or go on with --resume.")
        n0 = config.get("smoothing", {}).get("n0", 0)
        return cls(folder, config, certificates, Summary.of(certificates, seconds, n0=n0))

    @property
    def planned(self) -> int:
        """How many images the run is of; `summary.images` of them are done."""
        return int(self.config.get("images", {}).get("count", self.summary.images))

    @property
    def proved(self) -> bool:
        """Whether its claims are certain, so that nothing was sampled."""
        return "bound" in self.config

    @property
    def sigma(self) -> float:
        """The noise; 0 where the claims are about a classifier without any."""
        return float(self.config.get("smoothing", {}).get("sigma", 0))

    @property
    def remarks(self) -> list[str]:
        """What a look at some images found that is to be known beside the certificates."""
        journal, found = Journal.open(self.folder), []
        if (alone := journal.kept(ALONE)) is not None and alone["disagreements"]:
            found.append(str(Alone(**alone)))
        if (slope := journal.kept(SLOPE)) is not None:
            found.append(
                f"the slope of a difference of logits is at most {slope['proved']:.3g}, proved; "
                f"{slope['found']:.3g} was found by search, which certifies nothing"
            )
        return found

    @property
    def discrete(self) -> bool:
        """Whether the certified classifier rounds its input to the grid of 8-bit images."""
        return bool(self.config.get("smoothing", {}).get("discrete", False))

    @property
    def asked(self) -> float | None:
        """The one radius that was decided on, or None: the largest was certified."""
        radius: float | None = self.config.get("radius")
        return radius

    @property
    def start(self) -> str:
        """The warm start by its name."""
        start = self.config["policy"].get("start", {"is": "Cold"})
        name = "none" if start["is"] == "Cold" else str(start["is"]).lower()
        return f"{name}:{start['time']:g}" if "time" in start else name

    @property
    def name(self) -> str:
        """Policy, start and sigma, or the bound, in which sense it holds and in which norm."""
        if self.proved:
            return f"{self.config['bound']} ({self.summary.holds}, {self.summary.norm})"
        policy = self.config["policy"]
        steps = f" {policy['steps']}" if "steps" in policy else ""
        start = "" if self.start == "none" else f", {self.start}"
        grid = ", discrete" if self.discrete else ""
        return f"{policy['name']}{steps}{start}, σ {self.sigma:g}{grid}"

    def same_model(self, other: CertifiedRun) -> bool:
        """Whether the other is of the same weights and test set."""
        keys = ("weights sha256", "data")
        return all(self.config.get(key) == other.config.get(key) for key in keys)


def called(runs: Sequence[CertifiedRun]) -> list[str]:
    """Return what to call each run: its name, and its folder where another has that name."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name}, {run.folder}"
        for name, run in zip(names, runs, strict=True)
    ]


def open_runs(folders: Sequence[Path], *, unfinished: bool = False) -> list[CertifiedRun]:
    """Read folders of certify or decide; one of several sigmas stands for its sub-folders.

    Raises:
        FileNotFoundError: a folder holds no finished run.
        JournalError: its policy is unsound, or a file was altered.
    """
    found = []
    for folder in folders:
        inner = [] if (folder / CONFIG).exists() else sorted(folder.glob(f"sigma-*/{CONFIG}"))
        each = [file.parent for file in inner] or [folder]
        found += [CertifiedRun.of(one, unfinished=unfinished) for one in each]
    return found
