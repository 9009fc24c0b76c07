"""Whatever befalls a file, nothing is lost, executed or believed, and errors say what to do.

60 faults of the draw; `make faults` injects 500.
"""

from __future__ import annotations

import ast
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from homotopy_deq.cli import load_model
from homotopy_deq.training import (
    CHECKPOINT,
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from tests.faults import kinds
from tests.faults.harness import READS, WRITES, Fault, by_kind, inject, reading
from tests.faults.stores import RUN, stores
from tests.test_cli import done
from tests.test_import import ROOT

FAULTS = 4 * len((*READS, *WRITES))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


def test_nothing_is_lost_executed_or_believed_whatever_befalls_a_file(work: Path) -> None:
    found = inject(FAULTS, 0, work)
    broken = [fault for fault in found if fault.broken]
    assert not broken, "\n".join(map(str, broken))
    assert sum(by_kind(found)["all"].values()) == FAULTS


@pytest.mark.slow
def test_of_hundreds_of_other_faults_none_does_harm(tmp_path: Path) -> None:
    found = inject(436, 1, tmp_path)
    print(by_kind(found))
    broken = [fault for fault in found if fault.broken]
    assert not broken, "\n".join(map(str, broken))


def test_a_fault_that_is_believed_is_told(work: Path) -> None:
    """The judge is no rubber stamp: what was executed, altered or misread is called broken."""
    store = replace(stores(work / "template")["comparison"], agrees=lambda a, b: False)
    folder = work / "judged"
    folder.mkdir()
    store.make(folder)
    assert reading(store, folder, [{}], sealed=True) == "broken: believed"
    told = replace(store, read=lambda folder: json.loads("{"))
    assert reading(told, folder, [], True).startswith("broken: names no file")
    (folder / kinds.HARM).touch()
    assert reading(store, folder, [], True).startswith("broken: executed")
    assert Fault("", "", "", "broken: believed").broken


def test_a_part_of_a_study_is_not_taken_for_another(work: Path, tmp_path: Path) -> None:
    store = stores(work / "template")["study"]
    store.make(tmp_path)
    (tmp_path / "parts" / "to 3.json").write_bytes((tmp_path / "parts" / "to 5.json").read_bytes())
    assert reading(store, tmp_path, [], True) == "refused in one line"


def test_a_folder_in_the_place_of_a_models_settings_is_told(work: Path, tmp_path: Path) -> None:
    store = stores(work / "template")["saved model"]
    store.make(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").mkdir()
    assert reading(store, tmp_path, [], True) == "refused in one line"


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        ("depth", 10**6, "describes no model"),
        ("depth", 10**9, "depth = 1000000000"),
        ("parameters", 10**15, "parameters = 1000000000000000"),
    ],
)
def test_a_header_of_a_model_without_end_is_refused_at_once(
    name: str, size: int, told: str, tmp_path: Path
) -> None:
    done("train", "--out", tmp_path, "--model", "residual", *RUN)
    stored = load_checkpoint(tmp_path / CHECKPOINT)
    meta = json.loads(json.dumps(stored.meta))
    for settings in (meta["about"]["model"]["config"], meta["about"]["spec"]):
        assert name in settings
        settings[name] = size
    save_checkpoint(tmp_path / CHECKPOINT, replace(stored, meta=meta))
    since = time.process_time()
    with pytest.raises(CheckpointError, match=told) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert time.process_time() - since < 10  # a million blocks take minutes, a billion days


def test_a_construction_without_end_is_ended() -> None:
    stored = Checkpoint({"model.0.weight": torch.zeros(2, 2), "model.0.bias": torch.zeros(2)}, {})
    begun: list[int] = []

    def build(depth: int) -> nn.Sequential:
        return nn.Sequential(*(nn.Linear(2, 2) for k in range(depth) if not begun.append(k)))  # type: ignore[func-returns-value]

    assert len(stored.module(lambda: build(1), {}, "model")) == 1
    with pytest.raises(CheckpointError, match="many more parts than the 2 tensors"):
        stored.module(lambda: build(10**9), {}, "model")
    assert len(begun) < 10**4


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """List the calls of a function or method in the library, with their places."""
    return [
        (f"{file.relative_to(ROOT)}:{node.lineno}", node)
        for package in ("solvers", "homotopy_deq")
        for file in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == name
    ]


def test_no_text_depends_on_the_locale() -> None:
    for name in ("read_text", "write_text"):
        bare = [
            place
            for place, call in calls(name)
            if not any(keyword.arg == "encoding" for keyword in call.keywords)
        ]
        assert bare == []
    for place, call in calls("open"):
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        text = [mode for mode in modes if mode in ("w", "a", "r", "a+", "w+", "x")]
        assert not text or any(keyword.arg == "encoding" for keyword in call.keywords), place
    assert not calls("setlocale")


def test_nothing_asks_for_the_time_of_day() -> None:
    """So a clock that goes back changes nothing: spans are of clocks that do not."""
    asks = [place for name in ("time", "now", "today", "utcnow") for place, call in calls(name)
            if ast.unparse(call.func).split(".")[0] in ("time", "datetime", "date")]  # fmt: skip
    assert asks == []
