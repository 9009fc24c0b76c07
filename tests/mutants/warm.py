"""A process that has read every test, and forks for each file to map and each mutant to judge.

    python -m tests.mutants.warm jobs.json

A fork has torch and the tests at hand, so that to judge costs the tests alone. What changes inside
a function is put in place of the function's code; where that is not all (a line that an import
runs, a default, another closure) the fork is made before the library is imported, and imports the
changed source. Python 3.11 or newer.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from tests import conftest  # its environment comes before torch

ROOT = Path(__file__).parents[2]
LIBRARY = ["solvers", "homotopy_deq"]
HUNG = 3.0  # a test hangs after so many times its seconds of the processor, and
GRACE = 30.0  # so many more; a test that sleeps, after so many times those by the clock
WAITING = 10.0
MEMORY = 8 * 2**30
WORDS = ("-q", "--tb=no", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:faulthandler")
Job = dict[str, Any]
Told = dict[str, Any]


class Session:
    """A plugin: read the tests, and do this with them in the place of running them all."""

    def __init__(self, action: Callable[[Session, pytest.Session], None]) -> None:
        self.action = action
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if not session.testsfailed:  # to collect
            self.action(self, session)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed and report.nodeid not in self.failed:  # skipped: no judge
            self.failed.append(report.nodeid)

    def run(self, items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
        """Run tests one by one, yielding each before it is run."""
        for item, following in zip(items, [*items[1:], None], strict=True):
            yield item
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def first_failing(of: Session, session: pytest.Session, tests: dict[str, float]) -> str:
    """Return the first of some tests that fails, in their order; each has its time."""
    place = {name: k for k, name in enumerate(tests)}
    items = [item for item in session.items if item.nodeid in place]
    for item in of.run(sorted(items, key=lambda item: place[item.nodeid])):
        if of.failed:
            break
        patience = GRACE + HUNG * tests[item.nodeid]
        signal.setitimer(signal.ITIMER_PROF, patience)  # ends the process: nothing catches it
        signal.setitimer(signal.ITIMER_REAL, WAITING * patience)
    return next(iter(of.failed), "")


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a code and all that lie in it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, CodeType):
            yield from codes(const)


def put(functions: Sequence[FunctionType], job: Job) -> bool:
    """Put a mutant in the place of the functions of its module, and say whether that is all."""
    if not job["inside"]:
        return False
    new = {(c.co_name, c.co_firstlineno): c for c in codes(_compiled(job))}
    done = False
    for function in functions:
        old = function.__code__
        code = new.get((old.co_name, old.co_firstlineno))
        if code is not None and code != old:
            if code.co_freevars != old.co_freevars:
                return False
            function.__code__ = code
            done = True
    return done


def _compiled(job: Job) -> CodeType:
    return compile(job["source"], str(ROOT / job["file"]), "exec")


def replaced(job: Job) -> None:
    """Let an import of the module find the mutant."""
    whole = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, name: str) -> CodeType | None:
        return _compiled(job) if self.path == str(ROOT / job["file"]) else whole(self, name)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


class Forks:
    """Do jobs in forks of this process, so many at once; each tells one thing, or how it died."""

    def __init__(self, workers: int, hear: Callable[[Job, Told], None]) -> None:
        self.workers, self.hear = workers, hear
        self.running: dict[int, tuple[Job, Path, float]] = {}

    def start(self, job: Job, work: Callable[[], Any], folder: Path) -> None:
        while len(self.running) >= self.workers:
            self.reap()
        note = folder / f"told-{len(self.running)}-{time.monotonic_ns()}"
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
                for each in (signal.SIGPROF, signal.SIGALRM):
                    signal.signal(each, signal.SIG_DFL)
                note.write_text(json.dumps(work()))
            finally:
                os._exit(0)
        self.running[pid] = job, note, time.perf_counter()

    def reap(self) -> None:
        pid, status = os.wait()
        job, note, since = self.running.pop(pid)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # what it may have left behind
        told: Told = {"seconds": round(time.perf_counter() - since, 1), "hung": False}
        if note.exists():
            told["told"] = json.loads(note.read_text())
            note.unlink()
        else:  # it crashed, or took too long
            ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            told["hung"] = ended in (signal.SIGPROF, signal.SIGALRM)
        self.hear(job, told)

    def finish(self) -> None:
        while self.running:
            self.reap()


@dataclass
class Warm:
    """The process, by what it is asked.

    Arguments:
        asked: by `Judges.ask`; its jobs are to map a file of tests, to judge a mutant, with what
            is read or by importing it, or to check a test.
    """

    asked: dict[str, Any]
    coverage: Any = None

    def __post_init__(self) -> None:
        self.until = time.monotonic() + 60 * self.asked["minutes"]
        self.work = Path(self.asked["work"])

    def hear(self, job: Job, told: Told) -> None:
        with Path(self.asked["log"]).open("a") as log:
            log.write(json.dumps({"name": job["name"], **told}) + "\n")

    def do(self, task: Callable[[Job], Any]) -> None:
        """Fork for each job, while there is time."""
        forks = Forks(self.asked["workers"], self.hear)
        for job in self.asked["jobs"]:
            if time.monotonic() < self.until:
                forks.start(job, partial(task, job), self.work)
        forks.finish()

    def map(self, of: Session, session: pytest.Session) -> None:
        """Tell the seconds of each test of a file, None if it fails; keep which lines it runs."""

        def mapped(job: Job) -> dict[str, float | None]:
            mine = [i for i in session.items if i.nodeid.startswith(f"{job['name']}::")]
            for item in of.run(mine):
                self.coverage.switch_context(item.nodeid)
            self.coverage.switch_context("")
            self.coverage.stop()
            self.coverage.save()
            return {k: None if k in of.failed else v for k, v in of.seconds.items()}

        self.do(mapped)

    def judge(self, of: Session, session: pytest.Session) -> None:
        """Tell which test fails first on a mutant, and None where it has to be imported."""
        functions: dict[str, list[FunctionType]] = {}
        for each in gc.get_objects():
            if type(each) is FunctionType:
                functions.setdefault(each.__code__.co_filename, []).append(each)
        gc.freeze()  # a fork that collects garbage copies no page of this process

        def judged(job: Job) -> str | None:
            mine = functions.get(str(ROOT / job["file"]), [])
            return first_failing(of, session, job["tests"]) if put(mine, job) else None

        self.do(judged)

    def check(self, of: Session, session: pytest.Session) -> None:
        """Tell which of a job's tests fails first on the library as it is."""
        self.do(lambda job: first_failing(of, session, job["tests"]))

    def cold(self, job: Job) -> str:
        """Import a mutant, and return which test fails first."""
        replaced(job)
        found: list[str] = []
        plugin = Session(lambda *at: found.append(first_failing(*at, job["tests"])))
        files = dict.fromkeys(name.partition("::")[0] for name in job["tests"])
        pytest.main([*WORDS, *files], plugins=[plugin])
        return found[0] if found else "an import"


def main(file: Path) -> None:
    """Do what a file asks."""
    warm = Warm(json.loads(file.read_text()))
    kind = warm.asked["kind"]
    if kind == "cold":
        import accelerate, scipy.optimize, sklearn, torch, torchdiffeq, torchmetrics, typer  # noqa: E401,F401,I001

        warm.do(warm.cold)
        return
    if kind == "map":
        from coverage import Coverage

        data = str(warm.work / "coverage")
        warm.coverage = Coverage(data_file=data, data_suffix=True, source_pkgs=LIBRARY)
        warm.coverage.start()
    action = {"map": warm.map, "judge": warm.judge, "check": warm.check}[kind]
    sys.exit(pytest.main([*WORDS, *warm.asked["files"]], plugins=[Session(action)]))


if __name__ == "__main__":
    assert conftest
    main(Path(sys.argv[1]))
