"""Ask of a sample of small faults in `solvers` whether a test sees each: `make mutants`.

A mutant is a module with one change. Its judges are the tests that run the changed lines, those of
the fastest files first; it is killed when one of them fails, or hangs. All is done in clones of the
commit, so that the checkout is not touched, and the tests that killed must pass without a change.

What is known is kept in .mutants/ for each state of `solvers`: a call that was stopped goes on
where it was, and one that finds other tests maps those and judges again what has survived, or was
killed by a test that has changed. Where `solvers` has changed the map of lines is kept, and a
module that is another now is judged by all tests that ran it.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from queue import Queue
from typing import Any

from rich.console import Console
from rich.progress import track

from experiments.results import ROOT, Record, commit

from .judges import Judges, judged
from .operators import Mutant, mutants

EXPLAINED = Path(__file__).with_name("explained.json")


@dataclass(frozen=True)
class Config:
    """What is judged, by what, and for how long.

    Arguments:
        seed: of the sample.
        count: mutants in the sample.
        seconds: of tests that judge a mutant, at most; the slowest are left out.
        workers: processes.
        tests: folders and files of the tests that may judge.
    """

    seed: int = 0
    count: int = 100
    seconds: float = 60.0
    workers: int = 2
    tests: tuple[str, ...] = (
        "tests/contract", "tests/homotopy", "tests/solvers", "tests/cells",
        "tests/test_architecture.py", "tests/test_import.py", "tests/test_layers.py",
        "tests/test_layer_swaps.py", "tests/test_flow_layers.py", "tests/test_transforms.py",
        "tests/test_refused.py",
    )  # fmt: skip


def main(config: Config) -> None:
    """Map the tests, judge the sample, and write experiments/results/mutants.json."""
    begun = commit()
    if begun.endswith("+changes"):
        raise SystemExit("Commit first: the mutants are made of a commit.")
    record, console = Record("mutants", config), Console()
    work, changed = _work(_git("rev-parse", "HEAD:solvers").strip())
    trees = [_clone(work / f"tree-{k}") for k in range(config.workers)]
    console.print("Mapping which test runs which line ...")
    files = {}
    for line in _git("ls-tree", "-r", "HEAD", *config.tests).splitlines():
        _, _, blob, path = line.split(maxsplit=3)
        if Path(path).name.startswith("test_"):
            files[path] = blob
    judges = Judges(work, files, changed, config.seconds)
    judges.map(trees[0], config.workers)
    sample = _sample(trees[0], config)
    log = work / "verdicts.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    before = {told["mutant"]: told for told in map(json.loads, lines)}
    known = {mutant.name: before[mutant.name] for mutant in sample
             if mutant.name in before and judges.agree(mutant, before[mutant.name])}  # fmt: skip
    left = [mutant for mutant in sample if mutant.name not in known]
    free: Queue[Path] = Queue()
    for tree in trees:
        free.put(tree)

    def judge(mutant: Mutant) -> dict[str, Any]:
        tree = free.get()
        try:
            return {"commit": begun, **judged(mutant, judges, tree)}
        finally:
            free.put(tree)

    with ThreadPoolExecutor(config.workers) as pool, log.open("a") as file:
        for told in track(pool.map(judge, left), "Judging", len(left), console=console):
            file.write(json.dumps(told) + "\n")
            file.flush()
            known[told["mutant"]] = told
    found = [known[mutant.name] for mutant in sample]
    wrong = judges.failing({told["by"] for told in found} - {""}, trees[0])
    if wrong:
        raise SystemExit(f"These fail on solvers as it is, and are no judges: {wrong}")
    why = json.loads(EXPLAINED.read_text())
    for told in found:
        if told["verdict"] == "survived":
            told["why"] = why.get(told["mutant"], "not explained")
            console.print(f"survived: {told['mutant']} (line {told['line']}): {told['why']}")
    counts = Counter(told["verdict"] for told in found)
    score = 1 - counts["survived"] / len(found)
    seconds = judges.mapping + sum(told["seconds"] for told in found) / config.workers
    result = {
        "mutants": len(found),
        **counts,
        "score": score,
        "seconds of mapping": judges.mapping,
        "tests": len(judges.seconds),
        "tests left out, as they do not pass unchanged": judges.left_out,
        "sample": found,
    }
    if commit() != begun:
        raise SystemExit(f"The mutants are those of {begun}: go back to it, and call this again.")
    path = record.write(result, seconds=seconds)
    console.print(f"{dict(counts)}, score {score:.2f}. Written to {path}")


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def _work(tree: str) -> tuple[Path, set[str]]:
    """Return where what is known of a tree is kept, and the modules that its map does not know."""
    root = ROOT / ".mutants"
    work, of = root / tree[:12], root / tree[:12] / "mapped"
    if not of.exists():
        work.mkdir(parents=True, exist_ok=True)
        older = sorted(root.glob("*/mapped"), key=lambda path: path.stat().st_mtime)
        for name in ("lines", "tests.json", "mapped"):
            if older and (older[-1].parent / name).exists():
                (work / name).write_bytes((older[-1].parent / name).read_bytes())
        if not older:
            of.write_text(tree)
    told = _git("diff", "--name-only", of.read_text(), tree).split()
    return work, {f"solvers/{name}" for name in told}


def _clone(tree: Path) -> Path:
    if not tree.exists():
        _git("clone", "--quiet", "--shared", str(ROOT), str(tree))
    head = _git("rev-parse", "HEAD").strip()
    _git("-C", str(tree), "reset", "--quiet", "--hard", head)
    return tree


def _sample(tree: Path, config: Config) -> list[Mutant]:
    """Draw by the names' hashes, so that a change elsewhere leaves a mutant in the sample."""
    every: dict[str, Mutant] = {}
    for path in sorted((tree / "solvers").rglob("*.py")):
        for mutant in mutants(str(path.relative_to(tree)), path.read_bytes()):
            every.setdefault(mutant.name, mutant)
    return sorted(every.values(), key=lambda mutant: _drawn(config.seed, mutant))[: config.count]


def _drawn(seed: int, mutant: Mutant) -> str:
    return sha256(f"{seed} {mutant.name}".encode()).hexdigest()


if __name__ == "__main__":
    main(Config())
