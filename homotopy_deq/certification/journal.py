"""Certificates on disk: nothing that is done is lost, done twice or believed once altered."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ..sealed import digest, misfit, parse, seal, unseal
from ..training.checkpoint import differences, replace_file
from ..training.folder import writing
from .certificate import HEADER, Certificate, Rule
from .evidence import rule_of

CONFIG, LINES, TABLE = "config.json", "certificates.jsonl", "certificates.tsv"
TIMING, PARTS = "timing.jsonl", "parts"
ALONE, SLOPE = "alone.json", "slope.json"
FORMAT, OLDER = 3, 2
"""Of the folder; the first had no checksums, the second a part of the counts in `detail`."""


class JournalError(ValueError):
    """A folder holds a run that cannot be gone on with, or read."""


class Journal:
    """The folder of a certification run.

        config.json             what decides the results, and its hash
        parts/rank-0.jsonl      a line for each image that a process has done, appended and synced
        certificates.tsv        idx, label, predict, radius, correct, evals: a row as soon as an
                                image is done; once all are, in the order of the images
        certificates.jsonl      all of them in the order of the images, once all are done
        timing.jsonl            seconds for each image, apart, as no two runs take the same time
        alone.json              of how many samples the vote changed when they were solved alone
        slope.json              the steepest difference of logits found, beside the one proved

    A line is complete or was never written: a torn last line is dropped. Each line of JSON carries
    its checksum, and what a certificate claims is computed from its counts again before it is
    written and after it is read. Any number of processes may go on with what any other number
    left.

    Arguments:
        folder: where to write.
        config: JSON of all that decides the results. By `smoothing` (sigma, alpha, n), `policy`
            (its name) and, of a decision, `radius` claims follow from votes; by `bound`, the name
            of a deterministic rule, from its evidence.
        rank: of this process.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], *, rank: int = 0) -> None:
        self.folder = folder
        self.config = json.loads(json.dumps(config))
        self.part = folder / PARTS / f"rank-{rank}.jsonl"

    @classmethod
    def open(cls, folder: Path) -> Journal:
        """Return the journal that a folder holds.

        Raises:
            FileNotFoundError: it holds none.
            JournalError: its settings were altered, or written before there were checksums.
        """
        file = folder / CONFIG
        if not file.exists():
            raise FileNotFoundError(
                f"{folder} holds no {CONFIG}: give a folder that was certified into."
            )
        try:
            body = parse(_bytes(file, AGAIN))
            stored, version = body.pop("sha256"), body.get("format", 1)
            if stored != digest(body if version > 1 else body["config"]):
                raise ValueError("its checksum does not fit")
            config = dict(body["config"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise JournalError(f"{file} was altered: it is no settings. {AGAIN}") from None
        if version not in (OLDER, FORMAT):
            raise JournalError(
                f"{file} is of format {version} (torch {config.get('torch')}), and this version "
                f"reads {OLDER} and {FORMAT}: read it with the homotopy-deq that wrote it, or "
                "certify again with overwrite=True."
            )
        if not body.get("sound", True):
            raise JournalError(
                f"{folder}: the policy of this run is unsound: it has no certificates."
            )
        return cls(folder, config)

    @cached_property
    def rule(self) -> Rule:
        """How a claim follows from its evidence."""
        try:
            return rule_of(self.config)
        except ValueError as error:
            raise JournalError(f"{self.folder / CONFIG}: {error}") from None
        except (TypeError, KeyError):
            raise JournalError(f"{self.folder / CONFIG}: it names no rule. {AGAIN}") from None

    def check(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Raise before any work unless the run may begin, or go on, in its folder.

        Raises:
            FileExistsError: the folder holds a run, and neither is given.
            FileNotFoundError: there is nothing to resume.
            JournalError: the run there was started with other settings, says which; or altered.
        """
        file = self.folder / CONFIG
        if resume and overwrite:
            raise ValueError(
                "resume=True goes on with a run, overwrite=True discards it: give one."
            )
        if resume and not file.exists():
            raise FileNotFoundError(f"{self.folder} holds no {CONFIG} to resume from.")
        if file.exists() and not (resume or overwrite):
            raise FileExistsError(
                f"{self.folder} already holds a run: resume=True, overwrite=True or another "
                "folder= is needed."
            )
        if resume:
            stored = Journal.open(self.folder)
            if other := differences(stored.config, self.config):
                raise JournalError(
                    f"{self.folder} was started with other settings or another version: "
                    f"{'; '.join(other)}. Give the same, or overwrite=True."
                )
            self.done()

    def begin(self, *, resume: bool = False, overwrite: bool = False) -> None:
        """Write the settings, or with `resume` leave what is there. By one process alone.

        Raises:
            FileExistsError, FileNotFoundError, JournalError: see `check`.
        """
        self.check(resume=resume, overwrite=overwrite)
        (self.folder / PARTS).mkdir(parents=True, exist_ok=True)
        if not resume:
            for name in (LINES, TABLE, TIMING, ALONE, SLOPE):
                (self.folder / name).unlink(missing_ok=True)
            for part in (self.folder / PARTS).glob("rank-*.jsonl"):
                part.unlink()
            body = {"format": FORMAT, "config": self.config}
            text = json.dumps(body | {"sha256": digest(body)}, indent=2) + "\n"
            replace_file(self.folder / CONFIG, text.encode())
        # A kill may have come between a line and its row.
        self._write_table(certificate for certificate, _ in self.done().values())

    def keep(self, name: str, found: Mapping[str, Any]) -> None:
        """Keep what a look at some images found, under `ALONE` or `SLOPE`."""
        replace_file(self.folder / name, seal(found))

    def kept(self, name: str) -> dict[str, Any] | None:
        """Return what `keep` kept, None where nothing was looked at.

        Raises:
            JournalError: it was altered.
        """
        if not (self.folder / name).exists():
            return None
        found = list(_lines(self.folder / name, f"{AGAIN} Or delete it.", ended=True))
        if len(found) != 1:
            raise JournalError(
                f"{self.folder / name} has {len(found)} lines, and 1 is written: delete it."
            )
        return found[0][1]

    def done(self) -> dict[int, tuple[Certificate, float]]:
        """Return each finished image's certificate and seconds, by its index.

        Raises:
            JournalError: a line was altered, or does not follow from its counts; says which.
        """
        found: dict[int, tuple[Certificate, float]] = {}
        for part in sorted((self.folder / PARTS).glob("rank-*.jsonl")):
            for where, body in _lines(part, "Delete it, and resume=True does its image again."):
                if misfit({"certificate": dict, "seconds": float}, body):
                    raise JournalError(f"{where}: it is no certificate. {AGAIN}")
                certificate = self._certificate(body["certificate"], where)
                before, _ = found.get(certificate.index, (certificate, 0))
                if before != certificate:
                    raise JournalError(
                        f"{where}: image {certificate.index} was done before, with another "
                        f"result. {AGAIN}"
                    )
                found[certificate.index] = certificate, float(body["seconds"])
        return found

    def append(self, certificate: Certificate, seconds: float) -> None:
        """Add a finished image and wait until the disk has it.

        Raises:
            ValueError: the certificate does not follow from its counts, or a number is nan.
        """
        self.rule.check(certificate)
        line = seal({"certificate": certificate.body(), "seconds": round(seconds, 4)})
        with writing(self.part), self.part.open("ab") as file:
            if file.tell() and not self._ends_whole():
                whole = self.part.read_bytes().rpartition(b"\n")
                file.truncate(len(whole[0] + whole[1]))  # the torn line of a killed run
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        table = self.folder / TABLE
        with writing(table), table.open("ab") as file:
            file.write(f"{certificate.row()}\n".encode())

    def _ends_whole(self) -> bool:
        with self.part.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"

    def publish(self, order: Sequence[int]) -> list[Certificate]:
        """Write the certificates of all images, in ascending order, and return them.

        The bytes do not depend on processes, interruptions or time.

        Raises:
            JournalError: an image is missing, or a line was altered.
        """
        done = self.done()
        if missing := [k for k in order if k not in done]:
            raise JournalError(
                f"{len(missing)} of {len(order)} images are not done ({missing[:5]}, ...): "
                "go on with resume=True."
            )
        ordered = [done[k] for k in sorted(order)]
        lines = b"".join(seal(certificate.body()) for certificate, _ in ordered)
        times = b"".join(seal({"idx": c.index, "seconds": s}) for c, s in ordered)
        replace_file(self.folder / TIMING, times)
        self._write_table(certificate for certificate, _ in ordered)
        replace_file(self.folder / LINES, lines)
        return [certificate for certificate, _ in ordered]

    def published(self) -> dict[int, tuple[Certificate, float]]:
        """Return what `publish` wrote.

        Raises:
            JournalError: a line was altered, does not follow from its counts, or is missing.
        """
        anew = "go on with resume=True, which writes this file anew."
        times = _lines(self.folder / TIMING, anew, ended=True)
        seconds = dict[int, float]()
        for where, body in times:
            if misfit({"idx": int, "seconds": float}, body):
                raise JournalError(f"{where}: it is no time of an image; {anew}")
            seconds[body["idx"]] = float(body["seconds"])
        lines = _lines(self.folder / LINES, anew, ended=True)
        found = {c.index: c for c in (self._certificate(body, where) for where, body in lines)}
        wanted = self.config.get("images", {}).get("count", len(found))
        if set(found) != set(seconds) or len(found) != wanted:
            raise JournalError(
                f"{self.folder / LINES} and {TIMING} have {len(found)} and {len(seconds)} images "
                f"of {wanted}: lines are missing. {anew[0].upper()}{anew[1:]}"
            )
        return {index: (certificate, seconds[index]) for index, certificate in found.items()}

    def _certificate(self, body: Mapping[str, Any], where: str) -> Certificate:
        try:
            return self.rule.read(body)
        except ValueError as error:
            raise JournalError(f"{where}: {error} {AGAIN}") from None
        except (TypeError, KeyError):
            kind = self.rule.evidence.__name__
            raise JournalError(f"{where}: it is no certificate by a {kind}. {AGAIN}") from None

    def _write_table(self, certificates: Iterable[Certificate]) -> None:
        rows = "".join(certificate.row() + "\n" for certificate in certificates)
        replace_file(self.folder / TABLE, f"{HEADER}\n{rows}".encode())


AGAIN = "Nothing of it can be believed: certify again with overwrite=True."


def _lines(file: Path, advice: str, *, ended: bool = False) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each line with its place; unless all `ended`, what follows the last break is torn."""
    *lines, torn = _bytes(file, advice).split(b"\n")
    for number, line in enumerate(lines + [torn] * bool(ended and torn), 1):
        where = f"{file}, line {number}"
        try:
            yield where, unseal(line)
        except ValueError as error:
            raise JournalError(f"{where}: {error}. {advice}") from None


def _bytes(file: Path, advice: str) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise JournalError(f"{file} cannot be read ({error.strerror}). {advice}") from None


def read(
    folder: Path, *, unfinished: bool = False
) -> tuple[dict[str, Any], list[Certificate], dict[int, float]]:
    """Return a run's settings, certificates in ascending order and seconds, all checked.

    Arguments:
        folder: of the run.
        unfinished: read what is done of a run that has not ended, too.

    Raises:
        FileNotFoundError: the folder holds no finished run, or none at all.
        JournalError: the run's policy is unsound: its figures are no certificates. Or a file was
            altered; says which, and the line.
    """
    journal = Journal.open(folder)
    ended = (folder / LINES).exists()
    if not (ended or unfinished):
        raise FileNotFoundError(f"{folder} is not finished: go on with resume=True.")
    found = journal.published() if ended else journal.done()
    certificates = [found[index][0] for index in sorted(found)]
    return journal.config, certificates, {index: spent for index, (_, spent) in found.items()}
