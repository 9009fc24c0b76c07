"""What pytest does for the mutants, with `-p tests.mutants.plugin`.

With MUTANTS_MAP=folder it writes there which lines of `solvers` each test runs, and how long each
takes; with MUTANTS_TESTS=file it runs the tests that the file names, in its order, and gives up
on one that takes far longer than the seconds that the file gives it.
"""

from __future__ import annotations

import faulthandler
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

HUNG = 3.0  # MUTANTS_TESTS gives a test's seconds; it hangs after so many times those, and
GRACE = 60.0  # so many more, on a machine that has other work


def pytest_configure(config: pytest.Config) -> None:
    if "MUTANTS_MAP" in os.environ:
        plugin = _Lines if hasattr(config, "workerinput") else _Seconds
        config.pluginmanager.register(plugin(Path(os.environ["MUTANTS_MAP"])))
    if "MUTANTS_TESTS" in os.environ:
        config.pluginmanager.register(_Chosen(Path(os.environ["MUTANTS_TESTS"])))


class _Lines:
    """In a worker of pytest-xdist: the lines that each test runs."""

    def __init__(self, folder: Path) -> None:
        from coverage import Coverage

        data = str(folder / "coverage")
        self.coverage = Coverage(data_file=data, data_suffix=True, source_pkgs=["solvers"])
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        done = yield
        self.coverage.switch_context("")
        return done

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        self.coverage.save()


class _Seconds:
    """Where the workers report to: the time that each test takes, and which do not pass."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seconds, self.failed = folder, dict[str, float](), set[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if not report.passed:  # failed or skipped: no judge
            self.failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        told = {k: None if k in self.failed else v for k, v in self.seconds.items()}
        (self.folder / "seconds.json").write_text(json.dumps(told))


class _Chosen:
    def __init__(self, file: Path) -> None:
        self.seconds: dict[str, float] = json.loads(file.read_text())
        self.hung = file.with_suffix(".hung").open("w")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        place = {name: k for k, name in enumerate(self.seconds)}
        chosen = [item for item in items if item.nodeid in place]
        items[:] = sorted(chosen, key=lambda item: place[item.nodeid])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        patience = GRACE + HUNG * self.seconds[item.nodeid]
        faulthandler.dump_traceback_later(patience, exit=True, file=self.hung)
        done = yield
        faulthandler.cancel_dump_traceback_later()
        return done
