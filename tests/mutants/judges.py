"""Which tests run a line, and what they say of a mutant."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from coverage import CoverageData

from experiments.results import ROOT

from .operators import Mutant

READERS = ("tests/test_architecture.py::", "tests/contract/test_interface.py::test_defaults")


class Judges:
    """The tests of some files: the lines that each runs, and its seconds.

    Arguments:
        work: where that is kept.
        files: the files, and what names their content.
        changed: modules whose lines are others now than when they were mapped.
        most: seconds of tests for a mutant.
        workers: processes.
        witnesses: a test of some mutants, by their names, that is asked first whatever it takes.
    """

    def __init__(
        self,
        work: Path,
        files: dict[str, str],
        changed: set[str],
        most: float,
        workers: int,
        witnesses: dict[str, str],
    ) -> None:
        self.work, self.files, self.changed, self.most = work, files, changed, most
        self.workers, self.witnesses = workers, witnesses
        self.seconds: dict[str, float] = {}
        self.left_out: list[str] = []
        self.mapping = 0.0
        self.lines = cache(self._lines)

    def map(self, minutes: float) -> list[str]:
        """Run the tests of each file that is not known yet; return those that time left out."""
        book = self.work / "tests.json"
        known: dict[str, Any] = json.loads(book.read_text()) if book.exists() else {}
        new = [file for file, blob in self.files.items() if blob not in known]

        def hear(told: dict[str, Any]) -> None:
            tests = told.get("told", {})
            known[self.files[told["name"]]] = {"tests": tests, "mapping": told["seconds"]}
            book.write_text(json.dumps(known))

        self.ask("map", [{"name": file} for file in new], hear, minutes)
        for blob in self.files.values():
            self.mapping += known.get(blob, {"mapping": 0})["mapping"]
            for name, seconds in known.get(blob, {"tests": {}})["tests"].items():
                if seconds is None:
                    self.left_out.append(name)
                else:
                    self.seconds[name] = seconds
        self.data = CoverageData(str(self.work / "lines"))
        self.data.read()
        parts = [*self.work.glob("coverage.*")]
        for part in parts:
            data = CoverageData(str(part))
            data.read()
            self.data.update(data)
        for part in parts:
            part.unlink()
        return [file for file, blob in self.files.items() if blob not in known]

    def ask(
        self,
        kind: str,
        jobs: list[dict[str, Any]],
        hear: Callable[[dict[str, Any]], None],
        minutes: float,
    ) -> None:
        """Have a warm process do jobs, and hear what comes of each as soon as it is known."""
        if not jobs:
            return
        file = self.work / f"{kind}.json"
        log = self.work / f"{kind}.log"
        log.write_text("")
        tests = {
            name.partition("::")[0] for job in jobs for name in (job["name"], *job.get("tests", ()))
        }
        files = [file for file in self.files if file in tests]
        asked = {"kind": kind, "work": str(self.work), "log": str(log), "files": files,
                 "workers": self.workers, "minutes": minutes, "jobs": jobs}  # fmt: skip
        file.write_text(json.dumps(asked))
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        env.pop("PUBLISH_TO", None)  # of this command, not of the tests
        command = [sys.executable, "-B", "-m", "tests.mutants.warm", str(file)]
        out = self.work / f"{kind}.out"
        with (
            log.open() as told,
            out.open("w") as said,
            subprocess.Popen(command, cwd=ROOT, env=env, stdout=said) as warm,
        ):
            rest, ended = "", False
            while not ended:
                with suppress(subprocess.TimeoutExpired):
                    ended = warm.wait(1.0) is not None
                *lines, rest = (rest + told.read()).split("\n")
                for line in lines:
                    hear(json.loads(line))
        if warm.returncode:
            raise SystemExit(f"The tests could not be read: see {out}")

    def _lines(self, file: str) -> dict[int, set[str]]:
        found: dict[int, set[str]] = {}
        for path in self.data.measured_files():  # wherever it lay
            if path.endswith(f"/{file}"):
                for line, tests in self.data.contexts_by_lineno(path).items():
                    found.setdefault(line, set()).update(tests)
        return found

    def inside(self, mutant: Mutant) -> bool:
        """Say whether a mutant is no more than another body of a function that no import runs."""
        if mutant.file in self.changed:
            return False
        lines = self.lines(mutant.file)
        ran = any("" in lines.get(k, ()) for k in range(mutant.line, mutant.last + 1))
        return not ran and any(first <= mutant.line <= last for first, last in _bodies(mutant.file))

    def of(self, mutant: Mutant) -> dict[str, float]:
        """Return the seconds of each judge, in the order in which they are asked."""
        lines = self.lines(mutant.file)
        names = set().union(*(lines.get(k, ()) for k in range(mutant.line, mutant.last + 1)))
        # What an import runs is of use to all of the module, and seen where a source is read.
        if mutant.file in self.changed or not names & self.seconds.keys():
            names = set().union(*lines.values())
            names |= {name for name in self.seconds if name.startswith(READERS)}
        files: dict[str, dict[str, float]] = {}
        for name in sorted(names & self.seconds.keys(), key=self.seconds.__getitem__):
            files.setdefault(name.partition("::")[0], {})[name] = self.seconds[name]
        witness = self.witnesses.get(mutant.name)
        chosen = {name: seconds for name, seconds in self.seconds.items()
                  if name.partition("[")[0] == witness}  # fmt: skip
        left = self.most
        # A file at a time: a fixture that trains a model is made once.
        for tests in sorted(files.values(), key=lambda tests: sum(tests.values()) / len(tests)):
            for name, seconds in tests.items():
                if seconds <= left:
                    chosen[name] = seconds
                    left -= seconds
        return chosen

    def file(self, test: str) -> str:
        """Return what names the content of a test's file."""
        return self.files.get(test.partition("::")[0], "")

    def print(self, mutant: Mutant) -> str:
        """Return what names a mutant's judges and their content."""
        told = [(name, self.file(name)) for name in self.of(mutant)]
        return sha256(json.dumps(told).encode()).hexdigest()[:12]

    def failing(self, names: Iterable[str]) -> list[str]:
        """Return those of some tests that fail without a change."""
        jobs = [{"name": name, "tests": {name: self.seconds[name]}}
                for name in sorted(names) if name in self.seconds]  # fmt: skip
        failed: list[str] = []
        self.ask("check", jobs, lambda told: failed.append(told.get("told", told["name"])), 60)
        return [name for name in failed if name]

    def agree(self, mutant: Mutant, told: dict[str, Any]) -> bool:
        """Say whether an earlier verdict stands: its test, or its judges, have not changed."""
        if told["verdict"] != "killed":
            return bool(told["judges"] == self.print(mutant))
        return bool(told["file"] == self.file(told["by"]))

    def judge(
        self, sample: list[Mutant], hear: Callable[[dict[str, Any]], None], minutes: float
    ) -> None:
        """Judge mutants: which test kills each, and in what time."""
        by_name = {mutant.name: mutant for mutant in sample}
        jobs = [
            {"name": m.name, "file": m.file, "source": m.source.decode(), "tests": self.of(m),
             "inside": self.inside(m)}
            for m in sample
        ]  # fmt: skip
        again: list[str] = []

        def verdict(told: dict[str, Any]) -> None:
            mutant = by_name[told["name"]]
            if "told" in told and told["told"] is None:
                again.append(mutant.name)
                return
            by = told.get("told", "a crash")
            hear(
                {
                    "mutant": mutant.name,
                    "line": mutant.line,
                    "verdict": "hung" if told["hung"] else "killed" if by else "survived",
                    "by": "" if told["hung"] else by,
                    "file": self.file(by),
                    "judges": self.print(mutant),
                    "tests": len(self.of(mutant)),
                    "seconds": told["seconds"],
                }
            )

        inside = [job for job in jobs if job["inside"]]
        self.ask("judge", inside, verdict, minutes)
        outside = [job for job in jobs if not job["inside"] or job["name"] in again]
        self.ask("cold", outside, verdict, minutes)


@cache
def _bodies(file: str) -> list[tuple[int, int]]:
    tree = ast.parse((ROOT / file).read_bytes())
    defs = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return [(node.body[0].lineno, node.end_lineno or 0) for node in defs]
