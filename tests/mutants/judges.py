"""Which tests run a line, and what they say of a mutant."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

from coverage import CoverageData

from .operators import Mutant

FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.M)
READERS = ("tests/test_architecture.py::", "tests/contract/test_interface.py::test_defaults")
START = 60.0  # seconds that importing torch and collecting the tests may take on a busy machine


def _pytest(tree: Path, *words: str, **given: str) -> tuple[list[str], dict[str, Any]]:
    command = [sys.executable, "-B", "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"]
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", **given}
    command += ["-p", "tests.mutants.plugin", *words]
    return command, {"cwd": tree, "env": env, "text": True}


class Judges:
    """The tests of some files: the lines that each runs, and its seconds.

    Arguments:
        work: where that is kept.
        files: the files, and what names their content.
        changed: modules whose lines are others now than when they were mapped.
        most: seconds of tests for a mutant.
    """

    def __init__(self, work: Path, files: dict[str, str], changed: set[str], most: float) -> None:
        self.work, self.files, self.changed, self.most = work, files, changed, most
        self.seconds: dict[str, float] = {}
        self.left_out: list[str] = []
        self.mapping = 0.0

    def map(self, tree: Path, workers: int) -> None:
        """Run the tests of each file that is not known yet."""
        book = self.work / "tests.json"
        known: dict[str, Any] = json.loads(book.read_text()) if book.exists() else {}
        new = [file for file, blob in self.files.items() if blob not in known]
        if new:
            since = time.perf_counter()
            many = ("-n", str(workers), "--dist", "worksteal")
            command, settings = _pytest(tree, *many, *new, MUTANTS_MAP=str(self.work))
            subprocess.run(command, **settings, check=False)
            told = json.loads((self.work / "seconds.json").read_text())
            spent = round(time.perf_counter() - since, 1)
            for file in new:
                mine = {name: each for name, each in told.items() if name.startswith(f"{file}::")}
                known[self.files[file]] = {"tests": mine, "mapping": spent / len(new)}
            book.write_text(json.dumps(known))
        for blob in self.files.values():
            self.mapping += known[blob]["mapping"]
            for name, seconds in known[blob]["tests"].items():
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

    def of(self, mutant: Mutant) -> dict[str, float]:
        """Return the seconds of each judge, in the order in which they are asked."""
        lines: dict[int, set[str]] = {}
        for path in self.data.measured_files():  # in the clones of each state of solvers
            if path.endswith(f"/{mutant.file}"):
                for line, tests in self.data.contexts_by_lineno(path).items():
                    lines.setdefault(line, set()).update(tests)
        names = set().union(*(lines.get(k, ()) for k in range(mutant.line, mutant.last + 1)))
        # What an import runs is of use to all of the module, and seen where a source is read.
        if mutant.file in self.changed or not names & self.seconds.keys():
            names = set().union(*lines.values())
            names |= {name for name in self.seconds if name.startswith(READERS)}
        files: dict[str, dict[str, float]] = {}
        for name in sorted(names & self.seconds.keys(), key=self.seconds.__getitem__):
            files.setdefault(name.partition("::")[0], {})[name] = self.seconds[name]
        chosen: dict[str, float] = {}
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

    def failing(self, names: set[str], tree: Path) -> list[str]:
        """Return those of some tests that fail without a change."""
        chosen, files = tree / ".tests.json", {name.partition("::")[0] for name in names}
        chosen.write_text(
            json.dumps({name: self.seconds[name] for name in names & self.seconds.keys()})
        )
        command, settings = _pytest(
            tree, "-rfE", "-p", "no:xdist", *files, MUTANTS_TESTS=str(chosen)
        )
        run = subprocess.run(command, **settings, capture_output=True)
        return FAILED.findall(run.stdout)

    def agree(self, mutant: Mutant, told: dict[str, Any]) -> bool:
        """Say whether an earlier verdict stands: its test, or its judges, have not changed."""
        if told["verdict"] != "killed":
            return bool(told["judges"] == self.print(mutant))
        return bool(told["file"] == self.file(told["by"]))


def judged(mutant: Mutant, judges: Judges, tree: Path) -> dict[str, Any]:
    """Return the verdict on a mutant, by which test, and in what time."""
    tests = judges.of(mutant)
    chosen, hung = tree / ".tests.json", tree / ".tests.hung"
    chosen.write_text(json.dumps(tests))
    hung.write_text("")
    files = dict.fromkeys(name.partition("::")[0] for name in tests)
    words = ("-x", "-rfE", "-p", "no:xdist", *files)
    command, settings = _pytest(tree, *words, MUTANTS_TESTS=str(chosen))
    module = tree / mutant.file
    source, since = module.read_bytes(), time.perf_counter()
    verdict, by = "survived", ""
    try:
        module.write_bytes(mutant.source)
        patience = START + 4 * sum(tests.values())
        if tests:
            run = subprocess.run(command, **settings, capture_output=True, timeout=patience)
            if run.returncode:
                verdict = "hung" if hung.read_text() else "killed"
                by = next(iter(FAILED.findall(run.stdout)), "")
    except subprocess.TimeoutExpired:
        verdict = "hung"
    finally:
        module.write_bytes(source)
    return {
        "mutant": mutant.name,
        "line": mutant.line,
        "verdict": verdict,
        "by": by,
        "file": judges.file(by),
        "judges": judges.print(mutant),
        "tests": len(tests),
        "seconds": round(time.perf_counter() - since, 1),
    }
