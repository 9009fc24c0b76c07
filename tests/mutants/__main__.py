"""Ask of a sample of small faults in `solvers` whether a test sees each: `make mutants`.

A mutant is a module with one change. Its judges are the tests that run the changed lines, the
fastest files first; it is killed when one of them fails, or hangs. All is done in clones of the
commit, so that the checkout is not touched, and a call that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

from rich.console import Console
from rich.progress import track

from experiments.kept import made, making
from experiments.results import ROOT, Record, commit

from .operators import Mutant, mutants

PLUGIN = ("-p", "tests.mutants.plugin")
EXPLAINED = Path(__file__).with_name("explained.json")
START = 60.0  # seconds that importing torch and collecting the tests may take on a busy machine


@dataclass(frozen=True)
class Config:
    """How many mutants, and how long they are judged.

    Arguments:
        count: mutants in the sample.
        workers: processes.
        seconds: of tests that judge a mutant, at most; the slowest tests are left out.
    """

    seed: int = 0
    count: int = 100
    workers: int = 2
    seconds: float = 100.0


def main(config: Config) -> None:
    """Map the tests, judge the sample, and write experiments/results/mutants.json."""
    if commit().endswith("+changes"):
        raise SystemExit("Commit first: the mutants are made of a commit.")
    record, console = Record("mutants", config), Console()
    work = ROOT / ".mutants" / commit()
    with making(work):
        trees = [_clone(work / f"tree-{k}") for k in range(config.workers)]
        if not (work / "tests.json").exists():
            console.print("Mapping which test runs which line (once for each commit) ...")
            _map(trees[0], work, config.workers)
        judges = _Judges(work, config.seconds)
        sample = _sample(trees[0], config)
        done = work / f"seed-{config.seed}-seconds-{config.seconds:g}.jsonl"
        known = (
            [json.loads(line) for line in done.read_text().splitlines()] if done.exists() else []
        )
        left = [each for each in sample if each.name not in {told["mutant"] for told in known}]
        free: Queue[Path] = Queue()
        for tree in trees:
            free.put(tree)

        def judge(mutant: Mutant) -> dict[str, Any]:
            tree = free.get()
            try:
                return _judged(mutant, judges.of(mutant), tree)
            finally:
                free.put(tree)

        with ThreadPoolExecutor(config.workers) as pool, done.open("a") as log:
            for told in track(pool.map(judge, left), "Judging", len(left), console=console):
                log.write(json.dumps(told) + "\n")
                log.flush()
                known.append(told)
    names = [mutant.name for mutant in sample]
    found = sorted(
        (t for t in known if t["mutant"] in names), key=lambda t: names.index(t["mutant"])
    )
    why = json.loads(EXPLAINED.read_text())
    for told in found:
        if told["verdict"] == "survived":
            told["why"] = why.get(told["mutant"], "not explained")
    counts = Counter(told["verdict"] for told in found)
    score = 1 - counts["survived"] / len(found)
    told_of = made([work])
    summary = {"mutants": len(found), **counts, "score": round(score, 3)}
    summary["tests left out, as they failed or were skipped unchanged"] = judges.left_out
    path = record.write(
        {**summary, "sample": found}, started=told_of.started, seconds=told_of.seconds
    )
    for told in found:
        if told["verdict"] == "survived":
            console.print(f"survived: {told['mutant']} (line {told['line']}): {told['why']}")
    console.print(f"{dict(counts)}, score {score:.2f}. Written to {path}")


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _clone(tree: Path) -> Path:
    if not tree.exists():
        subprocess.run(["git", "clone", "--quiet", "--shared", ROOT, tree], check=True)
    subprocess.run(["git", "reset", "--quiet", "--hard"], cwd=tree, check=True)
    return tree


def _pytest(tree: Path, *words: str, **given: str) -> list[Any]:
    command = [sys.executable, "-B", "-m", "pytest", "-q", "--tb=no", *PLUGIN, *words]
    env = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", **given}
    return [command, {"cwd": tree, "env": env, "text": True}]


def _map(tree: Path, work: Path, workers: int) -> None:
    many = ("-n", str(workers), "--dist", "worksteal")
    command, settings = _pytest(tree, *many, MUTANTS_MAP=str(work))
    subprocess.run(command, **settings, check=False)
    from coverage import CoverageData

    whole = CoverageData(str(work / "coverage"))
    for part in work.glob("coverage.*"):
        data = CoverageData(str(part))
        data.read()
        whole.update(data)
    whole.write()


class _Judges:
    """The tests that run a mutant's lines."""

    def __init__(self, work: Path, most: float) -> None:
        from coverage import CoverageData

        told = json.loads((work / "tests.json").read_text())
        self.seconds: dict[str, float] = told["seconds"]
        self.left_out: list[str] = told["left out"]
        self.most = most
        self.data = CoverageData(str(work / "coverage"))
        self.data.read()
        self.files = {f"solvers/{name.rpartition('/solvers/')[2]}": name
                      for name in self.data.measured_files()}  # fmt: skip

    def of(self, mutant: Mutant) -> dict[str, float]:
        """Return the seconds of each judge, in the order in which they are asked."""
        lines = self.data.contexts_by_lineno(self.files.get(mutant.file, ""))
        names = {name for k in range(mutant.line, mutant.last + 1) for name in lines.get(k, ())}
        if not names & self.seconds.keys():  # what an import runs is of use to all of the module
            names = {name for tests in lines.values() for name in tests}
        files: dict[str, list[str]] = {}
        for name in sorted(names & self.seconds.keys(), key=lambda name: self.seconds[name]):
            files.setdefault(name.partition("::")[0], []).append(name)
        chosen: dict[str, float] = {}
        # A file at a time: a fixture that trains a model is made once.
        for tests in sorted(
            files.values(), key=lambda ts: sum(map(self.seconds.get, ts)) / len(ts)
        ):
            for name in tests:
                if sum(chosen.values()) + self.seconds[name] <= self.most:
                    chosen[name] = self.seconds[name]
        return chosen


def _sample(tree: Path, config: Config) -> list[Mutant]:
    every: dict[str, Mutant] = {}
    for path in sorted((tree / "solvers").rglob("*.py")):
        for mutant in mutants(str(path.relative_to(tree)), path.read_bytes()):
            every.setdefault(mutant.name, mutant)
    chosen = random.Random(config.seed).sample(sorted(every), min(config.count, len(every)))
    return [every[name] for name in chosen]


@contextmanager
def _changed(path: Path, mutant: Mutant) -> Iterator[None]:
    source = path.read_bytes()
    path.write_bytes(mutant.source)
    try:
        yield
    finally:
        path.write_bytes(source)


def _judged(mutant: Mutant, tests: dict[str, float], tree: Path) -> dict[str, Any]:
    chosen = tree / ".tests.json"
    chosen.write_text(json.dumps(tests))
    files = list(dict.fromkeys(name.partition("::")[0] for name in tests))
    words = ("-x", "-rfE", "-p", "no:xdist", "-p", "no:cacheprovider", *files)
    command, settings = _pytest(tree, *words, MUTANTS_TESTS=str(chosen))
    since, verdict, by = time.perf_counter(), "survived", ""
    with _changed(tree / mutant.file, mutant):
        if tests:
            try:
                patience = START + 4 * sum(tests.values())
                run = subprocess.run(command, **settings, capture_output=True, timeout=patience)
                hung = chosen.with_suffix(".hung")
                if hung.exists() and hung.stat().st_size:
                    verdict = "hung"
                elif run.returncode:
                    verdict = "killed"
                    by = next(iter(re.findall(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.M)), "")
            except subprocess.TimeoutExpired:
                verdict = "hung"
    return {
        "mutant": mutant.name,
        "line": mutant.line,
        "verdict": verdict,
        "by": by,
        "tests": len(tests),
        "seconds": round(time.perf_counter() - since, 1),
    }


if __name__ == "__main__":
    main(Config())
