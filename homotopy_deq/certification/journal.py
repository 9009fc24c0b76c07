"""Certificates on disk: nothing that is done is lost, and nothing is done twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..training.checkpoint import differences, replace_file
from .certificate import HEADER, Certificate

CONFIG, LINES, TABLE, TIMING = (
    "config.json",
    "certificates.jsonl",
    "certificates.tsv",
    "timing.jsonl",
)
PARTS, ESTIMATES = "parts", "unsound-estimates.jsonl"


class JournalError(ValueError):
    """A folder holds a run that cannot be gone on with."""


class Journal:
    """The folder of a certification run.

        config.json             what decides the results, and its hash
        parts/rank-0.jsonl      a line for each image that a process has done, appended and synced
        certificates.jsonl      all of them in the order of the images, once all are done
        certificates.tsv        the same as a table: idx, label, predict, radius, correct, evals
        timing.jsonl            seconds for each image, apart, as no two runs take the same time

    A line is complete or was never written: a torn last line is dropped. Any number of processes
    may go on with what any other number left. An unsound policy's figures go to
    unsound-estimates.jsonl, and neither certificates nor a table are written.

    Arguments:
        folder: where to write.
        config: JSON of all that decides the results.
        sound: whether these are certificates.
        rank: of this process.
    """

    def __init__(
        self, folder: Path, config: Mapping[str, Any], *, sound: bool = True, rank: int = 0
    ) -> None:
        self.folder = folder
        self.config = json.loads(json.dumps(config))
        self.sound = sound
        self.part = folder / PARTS / f"rank-{rank}.jsonl"

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Raise before any work unless the run may begin, or go on, in its folder.

        Raises:
            FileExistsError: the folder holds a run, and neither is given.
            FileNotFoundError: there is nothing to resume.
            JournalError: the run there was started with other settings; says which.
        """
        file = self.folder / CONFIG
        if resume and overwrite:
            raise ValueError("--resume goes on with a run and --overwrite discards it: give one.")
        if resume and not file.exists():
            raise FileNotFoundError(f"{self.folder} holds no {CONFIG} to resume from.")
        if file.exists() and not (resume or overwrite):
            raise FileExistsError(
                f"{self.folder} already holds a run: --resume it, --overwrite it or choose another "
                "--out."
            )
        if resume:
            stored = json.loads(file.read_text())["config"]
            if other := differences(stored, self.config):
                raise JournalError(
                    f"{self.folder} was started with other settings:\n  " + "\n  ".join(other)
                )

    def begin(self, *, resume: bool = False) -> None:
        """Write the settings, or with `resume` leave what is there. By one process alone."""
        (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
        if resume:
            return
        for name in (LINES, TABLE, TIMING, ESTIMATES):
            (self.folder / name).unlink(missing_ok=True)
        for part in (self.folder / PARTS).glob("rank-*.jsonl"):
            part.unlink()
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()
        body = {"config": self.config, "sha256": digest, "sound": self.sound}
        replace_file(self.folder / CONFIG, (json.dumps(body, indent=2) + "\n").encode())

    def done(self) -> dict[int, tuple[Certificate, float]]:
        """Return each finished image's certificate and seconds, by its index."""
        found = {}
        for part in sorted((self.folder / PARTS).glob("rank-*.jsonl")):
            for line in part.read_bytes().split(b"\n")[:-1]:  # what follows the last \n is torn
                try:
                    body = json.loads(line)
                except json.JSONDecodeError:
                    continue  # torn, with a later line behind it
                found[body["certificate"]["index"]] = (
                    Certificate.of(body["certificate"]),
                    float(body["seconds"]),
                )
        return found

    def append(self, certificate: Certificate, seconds: float) -> None:
        """Add a finished image and wait until the disk has it."""
        line = {"certificate": certificate.body(), "seconds": round(seconds, 4)}
        with self.part.open("ab") as file:
            if file.tell() and not self._ends_whole():
                file.write(b"\n")  # closes the torn line of a killed run
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def _ends_whole(self) -> bool:
        with self.part.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def publish(self, order: Sequence[int]) -> list[Certificate]:
        """Write the certificates of all images, in ascending order, and return them.

        The bytes do not depend on processes, interruptions or time.

        Raises:
            JournalError: an image is missing.
        """
        done = self.done()
        if missing := [k for k in order if k not in done]:
            raise JournalError(
                f"{len(missing)} of {len(order)} images are not done ({missing[:5]}, ...): "
                "--resume the run."
            )
        ordered = [done[k] for k in sorted(order)]
        lines = "".join(json.dumps(certificate.body()) + "\n" for certificate, _ in ordered)
        if not self.sound:
            replace_file(self.folder / ESTIMATES, lines.encode())
            return [certificate for certificate, _ in ordered]
        rows = "".join(certificate.row() + "\n" for certificate, _ in ordered)
        times = "".join(json.dumps({"idx": c.index, "seconds": s}) + "\n" for c, s in ordered)
        replace_file(self.folder / TIMING, times.encode())
        replace_file(self.folder / TABLE, f"{HEADER}\n{rows}".encode())
        replace_file(self.folder / LINES, lines.encode())
        return [certificate for certificate, _ in ordered]


def read(folder: Path) -> tuple[dict[str, Any], list[Certificate], dict[int, float]]:
    """Return a finished run's settings, certificates and seconds.

    Raises:
        FileNotFoundError: the folder holds no finished run.
        JournalError: the run's policy is unsound: its figures are no certificates.
    """
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"{folder} holds no {CONFIG}: give the --out of a certify run.")
    body = json.loads((folder / CONFIG).read_text())
    if not body["sound"]:
        raise JournalError(f"{folder}: the policy of this run is unsound; it has no certificates.")
    if not (folder / LINES).exists():
        raise FileNotFoundError(f"{folder} is not finished: go on with certify --resume.")
    lines = (folder / LINES).read_text().splitlines()
    times = map(json.loads, (folder / TIMING).read_text().splitlines())
    seconds = {entry["idx"]: float(entry["seconds"]) for entry in times}
    return body["config"], [Certificate.of(json.loads(line)) for line in lines], seconds
