"""A mutant takes the place of what was read, or is imported; and whatever it does, it is told."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from tests.mutants.operators import mutants
from tests.mutants.warm import Forks, Job, put, replaced

SOURCE = """
def twice(x, offset=0):
    return 2 * x + offset


def adder(k):
    def add(x):
        return x + k
    return add


add_one = adder(1)


class Box:
    def double(self, x):
        return [each * 2 for each in x]
"""


@pytest.fixture
def read(tmp_path: Path) -> ModuleType:
    file = tmp_path / "held.py"
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("held", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def job(module: ModuleType, change: str, inside: bool = True) -> Job:
    """The job of the mutant whose new line is this; a path that is absolute stays so."""
    assert module.__file__ is not None
    found = mutants(module.__file__, SOURCE.encode())
    (only,) = [mutant for mutant in found if mutant.after == change]
    return {"file": only.file, "source": only.source.decode(), "inside": inside}


def functions(module: Any) -> list[FunctionType]:
    return [module.twice, module.adder, module.add_one, module.Box.double]


@pytest.mark.parametrize(
    ("change", "call", "value"),
    [
        ("return (2 / x) + offset", lambda m: m.twice(4, 1), 1.5),
        ("return (x - k)", lambda m: (m.add_one(5), m.adder(2)(5)), (4, 3)),
        ("return [(each / 2) for each in x]", lambda m: m.Box().double([4]), [2]),
    ],
)
def test_a_change_inside_a_function_is_what_its_callers_run(
    read: ModuleType, change: str, call: Any, value: Any
) -> None:
    assert call(read) != value
    assert put(functions(read), job(read, change))
    assert call(read) == value


def test_a_change_of_what_a_closure_holds_or_of_a_line_that_an_import_runs_is_imported(
    read: ModuleType,
) -> None:
    closure = SOURCE.replace("return x + k", "return x")
    assert not put(functions(read), {"file": read.__file__, "source": closure, "inside": True})
    assert not put(functions(read), job(read, "add_one = adder(2)", inside=False))


def test_an_import_finds_the_mutant_and_nothing_is_written(
    read: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib.machinery import SourceFileLoader

    monkeypatch.setattr(SourceFileLoader, "get_code", SourceFileLoader.get_code)  # put back
    replaced(job(read, "add_one = adder(2)"))
    assert read.__spec__ is not None and read.__spec__.loader is not None
    read.__spec__.loader.exec_module(read)
    assert read.add_one(5) == 7
    assert (tmp_path / "held.py").read_text() == SOURCE


def test_a_fork_that_hangs_crashes_or_fails_is_told_as_that(tmp_path: Path) -> None:
    heard: dict[str, dict[str, Any]] = {}
    forks = Forks(2, lambda job, told: heard.update({job["name"]: told}))

    def hang() -> None:
        import signal

        signal.setitimer(signal.ITIMER_REAL, 0.05)
        time.sleep(60)

    works = {"fine": lambda: "a test", "nothing": lambda: "", "crash": lambda: os._exit(3)}
    for name, work in {**works, "hang": hang}.items():
        forks.start({"name": name}, work, tmp_path)
    forks.finish()
    assert heard["fine"]["told"] == "a test" and heard["nothing"]["told"] == ""
    assert "told" not in heard["crash"] and not heard["crash"]["hung"]
    assert "told" not in heard["hang"] and heard["hang"]["hung"]
    assert list(tmp_path.iterdir()) == []
