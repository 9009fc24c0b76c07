"""Ask of a sample of small faults in the library whether a test sees each: `make mutants`.

A mutant is a module with one change. Its judges are the tests that run the changed lines: the one
that explained.json names, if any, and those of the fastest files; it is killed when one of them
fails, or hangs. Nothing is written in the checkout: warm.py puts a mutant in the place of the code
that it has read. The tests that killed must pass without a change.

What is known is kept in .mutants/ for each state of the library: a call that was stopped goes on
where it was, and one that finds other tests maps those and judges again what has survived, or was
killed by a test that has changed. Where the library has changed the map of lines is kept, and a
module that is another now is judged by all tests that ran it.

With --lines the tests of the whole suite are mapped, no mutant is judged, and the share of lines
that they run is written to experiments/results/line_coverage.json.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections import Counter
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from coverage import Coverage
from rich.console import Console

from experiments.results import ROOT, Record, commit

from .judges import Judges
from .operators import Mutant, mutants

EXPLAINED = Path(__file__).with_name("explained.json")
WITNESS = re.compile(r"Killed by (tests/\S+\.py), (test_\w+)")
LIBRARY = ("solvers", "homotopy_deq")
ENOUGH = 80  # percent of a file's lines; files below are named


@dataclass(frozen=True)
class Config:
    """What is judged, by what, and for how long.

    Arguments:
        seed: of the sample.
        count: mutants in the sample.
        seconds: of tests that judge a mutant, at most; the slowest are left out.
        workers: processes.
        minutes: after which no more is begun, of each of mapping, judging, and what is imported.
        packages: where mutants are made.
        tests: folders and files of the tests that may judge.
    """

    seed: int = 0
    count: int = 300
    seconds: float = 60.0
    workers: int = 2
    minutes: float = 600.0
    packages: tuple[str, ...] = (
        "solvers", "homotopy_deq/certification", "homotopy_deq/lipschitz",
    )  # fmt: skip
    tests: tuple[str, ...] = (
        "tests/contract", "tests/homotopy", "tests/solvers", "tests/cells", "tests/certification",
        "tests/lipschitz", "tests/test_architecture.py", "tests/test_import.py",
        "tests/test_layers.py", "tests/test_layer_swaps.py", "tests/test_flow_layers.py",
        "tests/test_transforms.py", "tests/test_refused.py", "tests/test_public.py",
        "tests/test_autocast.py", "tests/test_kept.py", "tests/models",
    )  # fmt: skip


def main(config: Config) -> None:
    """Map the tests, judge the sample, and write experiments/results/mutants.json."""
    begun, console = _begun(), Console()
    record = Record("mutants", config)
    judges = _judges(config)
    console.print("Mapping which test runs which line ...")
    if late := judges.map(config.minutes):
        raise SystemExit(f"No time to map {late}: call this again.")
    sample = _sample(config)
    log = judges.work / "verdicts.jsonl"
    old = log.read_text().splitlines() if log.exists() else []
    before = {told["mutant"]: told for told in map(json.loads, old)}
    known = {mutant.name: before[mutant.name] for mutant in sample
             if mutant.name in before and judges.agree(mutant, before[mutant.name])}  # fmt: skip
    left = [mutant for mutant in sample if mutant.name not in known]
    with log.open("a") as file:

        def hear(told: dict[str, Any]) -> None:
            file.write(json.dumps({"commit": begun, **told}) + "\n")
            file.flush()
            known[told["mutant"]] = {"commit": begun, **told}
            console.print(f"{len(known)} of {len(sample)}: {told['verdict']} {told['mutant']}")

        judges.judge(left, hear, config.minutes)
    if late := [mutant.name for mutant in sample if mutant.name not in known]:
        raise SystemExit(f"No time to judge {len(late)} mutants: call this again.")
    found = [known[mutant.name] for mutant in sample]
    wrong = judges.failing({told["by"] for told in found})
    if wrong:
        raise SystemExit(f"These fail on the library as it is, and are no judges: {wrong}")
    why = json.loads(EXPLAINED.read_text())
    equivalent = 0
    for told in found:
        if told["verdict"] == "survived":
            told["why"] = why.get(told["mutant"], "not explained")
            equivalent += told["why"].startswith("Equivalent")
            console.print(f"survived: {told['mutant']} (line {told['line']}): {told['why']}")
    counts = Counter(told["verdict"] for told in found)
    score = 1 - (counts["survived"] - equivalent) / (len(found) - equivalent)
    seconds = judges.mapping + sum(told["seconds"] for told in found)
    result = {
        "mutants": len(found),
        **counts,
        "equivalent": equivalent,
        "score": score,
        "by package": {
            package: Counter(
                told["verdict"] for told in found if told["mutant"].startswith(package)
            )
            for package in config.packages
        },
        "seconds of mapping": judges.mapping,
        "tests": len(judges.seconds),
        "tests left out, as they do not pass unchanged": judges.left_out,
        "sample": found,
    }
    _same(begun)
    path = record.write(result, seconds=seconds)
    console.print(f"{dict(counts)}, score {score:.2f}. Written to {path}")


def lines(config: Config) -> None:
    """Map the whole suite, and write experiments/results/line_coverage.json."""
    begun, record = _begun(), Record("line_coverage", config)
    judges = _judges(config)
    if late := judges.map(config.minutes):
        raise SystemExit(f"No time to map {len(late)} files of tests: call this again.")
    read = Coverage(data_file=str(judges.work / "lines"))
    read.load()
    files: dict[str, dict[str, Any]] = {}
    for root in LIBRARY:
        for path in sorted((ROOT / root).rglob("*.py")):
            _, wanted, _, missing, shown = read.analysis2(str(path))
            if wanted:
                files[str(path.relative_to(ROOT))] = {
                    "lines": len(wanted), "missing": len(missing), "which": shown,
                }  # fmt: skip

    def percent(*roots: str) -> float:
        some = [file for name, file in files.items() if name.startswith(roots)]
        total = sum(file["lines"] for file in some)
        return round(100 * (1 - sum(file["missing"] for file in some) / total), 2)

    packages = sorted({"/".join(Path(name).parts[:2]) for name in files if name.count("/") > 1})
    result = {
        "percent": percent(*LIBRARY),
        "lines": sum(file["lines"] for file in files.values()),
        "by package": {name: percent(f"{name}/") for name in (*LIBRARY, *packages)},
        "tests": len(judges.seconds),
        "tests that did not pass, or were skipped": judges.left_out,
        "files": {name: {"percent": percent(name), **file} for name, file in files.items()},
    }
    _same(begun)
    path = record.write(result, seconds=judges.mapping)
    below = {name: percent(name) for name in files if percent(name) < ENOUGH}
    Console().print(f"{result['percent']}% of the lines; below {ENOUGH}%: {below}. See {path}")


def _begun() -> str:
    begun = commit()
    if begun.endswith("+changes"):
        raise SystemExit("Commit first: what is measured is a commit.")
    return begun


def _same(begun: str) -> None:
    if commit() != begun:
        raise SystemExit(f"What was measured is {begun}: go back to it, and call this again.")


def _git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def _judges(config: Config) -> Judges:
    """Return the tests of some folders, with where what is known of this library is kept."""
    trees = _git("rev-parse", *(f"HEAD:{name}" for name in LIBRARY)).split()
    root = ROOT / ".mutants"
    work = root / sha256(" ".join(trees).encode()).hexdigest()[:12]
    of = work / "mapped"  # the trees whose lines are mapped
    if not of.exists():
        work.mkdir(parents=True, exist_ok=True)
        older = sorted(root.glob("*/mapped"), key=lambda path: path.stat().st_mtime)
        for name in ("lines", "tests.json", "mapped"):
            if older and (older[-1].parent / name).exists():
                (work / name).write_bytes((older[-1].parent / name).read_bytes())
        if not older:
            of.write_text(" ".join(trees))
    changed = {
        f"{root}/{name}"
        for root, then, now in zip(LIBRARY, of.read_text().split(), trees, strict=True)
        for name in _git("diff", "--name-only", then, now).split()
    }
    files = {}
    for line in _git("ls-tree", "-r", "HEAD", *config.tests).splitlines():
        _, _, blob, path = line.split(maxsplit=3)
        if Path(path).name.startswith("test_"):
            files[path] = blob
    told = {name: WITNESS.search(why) for name, why in json.loads(EXPLAINED.read_text()).items()}
    witnesses = {name: "::".join(found.groups()) for name, found in told.items() if found}
    return Judges(work, files, changed, config.seconds, config.workers, witnesses)


def _sample(config: Config) -> list[Mutant]:
    """Draw by the names' hashes, so that a change elsewhere leaves a mutant in the sample."""
    every: dict[str, Mutant] = {}
    for package in config.packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            for mutant in mutants(str(path.relative_to(ROOT)), path.read_bytes()):
                every.setdefault(mutant.name, mutant)
    return sorted(every.values(), key=lambda mutant: _drawn(config.seed, mutant))[: config.count]


def _drawn(seed: int, mutant: Mutant) -> str:
    return sha256(f"{seed} {mutant.name}".encode()).hexdigest()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=Config.count, help="mutants in the sample")
    parser.add_argument("--workers", type=int, default=Config.workers, help="processes")
    parser.add_argument("--minutes", type=float, default=Config.minutes, help="of each stage")
    parser.add_argument("--lines", action="store_true", help="map all tests, and judge nothing")
    chosen = parser.parse_args()
    config = Config(count=chosen.count, workers=chosen.workers, minutes=chosen.minutes)
    if chosen.lines:
        lines(replace(config, count=0, packages=LIBRARY, tests=("tests",)))
    else:
        main(config)
