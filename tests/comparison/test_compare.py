from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments import compare as experiment
from homotopy_deq.cli.comparison import children
from homotopy_deq.cli.comparison import compare as command
from homotopy_deq.cli.comparison.plan import default_models, plan
from homotopy_deq.create import model_class
from homotopy_deq.models import BoundedModel
from homotopy_deq.settings import MODELS
from homotopy_deq.training import CHECKPOINT
from tests.test_cli import done, refused

TINY = {"dataset": "digits", "limit": 60, "test_limit": 20, "epochs": 1, "hidden": 4, "groups": 2,
        "head": 8}  # fmt: skip
SMALL = ["--limit", "300", "--test-limit", "50", "--epochs", "4", "--hidden", "4", "--groups", "2",
         "--head", "8", "--cpu"]  # fmt: skip


def test_by_default_all_models_of_the_registry_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MODELS, "another", MODELS["deq"])
    names = default_models()
    assert names[-1] == "another"
    assert {"homoode", "homoode --no-rest-point"} <= {*names}
    bounded = {name for name in MODELS if issubclass(model_class(name), BoundedModel)}
    assert {name.split()[0] for name in names} == {*MODELS} - bounded


def test_options_hold_for_all_models_that_have_them_and_those_of_a_model_for_it_alone() -> None:
    entries, images, notes = plan(
        "deq,neural-ode,homoode --no-rest-point --hidden 8", {**TINY, "start": "spatial", "lr": 0.1}
    )
    deq, plain, published = (entry.settings for entry in entries)
    assert (deq.model.start, plain.model.start) == ("spatial", None)
    assert notes == ["neural-ode has no --start."]
    assert (deq.model.hidden, published.model.hidden, published.model.rest_point) == (4, 8, False)
    assert {each.training.lr for each in (deq, plain, published)} == {0.1}
    assert len(images.train_labels) == 60
    assert entries[0].parameters < entries[2].parameters


@pytest.mark.parametrize(
    ("models", "told"),
    [
        ("deq,deqq", "unknown model 'deqq'. Did you mean 'deq'?"),
        ("deq,deq", "names each model once"),
        ("deq --lr 0.1,deq --lr=0.1", "'deq --lr 0.1' and 'deq --lr=0.1'"),
        ("deq,,homoode", "an empty name"),
        ("deq --seed 4", "--seed is not of one model"),
        ("deq --limit 4", "--limit is not of one model"),
        ("deq --hiden 4", "No such option"),
        ("deq --rest-point", "--rest-point is of homoode; got it for deq"),
    ],
)
def test_models_that_cannot_be_are_refused_before_anything_is_trained(
    models: str, told: str, tmp_path: Path
) -> None:
    message = " ".join(refused("compare", "--models", models, "--out", tmp_path / "out").split())
    assert told in message
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_experiment_keeps_its_runs_and_measures_no_part_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = experiment.Config(
        work=tmp_path / "work", models="deq --hidden 4 --groups 2 --head 8", seeds=1, epochs=1,
        limit=60, test_limit=20, device="cpu",
    )  # fmt: skip
    found = []
    for k in range(2):
        experiment.main(config, tmp_path / str(k))
        found.append(json.loads((tmp_path / str(k) / "compare_digits.json").read_text())["result"])
        monkeypatch.delattr(
            command, "work", raising=False
        )  # nothing is trained or measured a second time
    assert found[0] == found[1]
    (row,) = found[0]["models"].values()
    assert row["accuracy"]["test images"] == 20
    assert set(row["swapped"]) == {"dopri5", "rk4"}  # anderson is its own
    folder = tmp_path / "work" / "digits"
    other = ["--out", folder, "--models", "deq --hidden 4 --groups 2 --head 8", "--seeds", 1]
    told = refused("compare", *other, "--epochs", 2, "--limit", 60, "--test-limit", 20)
    assert "--epochs: the run has 1, got 2" in told
    # what is not given counts as well: the table would show its default, and not what was trained
    told = refused("compare", *other, "--epochs", 1)
    assert "--limit: the run has 60, got None" in told


def test_a_fault_is_that_of_this_call_and_ctrl_c_in_a_terminal_is_for_the_parent(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log"
    log.write_text("Error: of a call before\n")
    code = "import os; os.write(1, b'%d' % os.getpgrp()); os._exit(3)"
    wrong = children.work([children.Task("a", exec, (code,), log)], 1, lambda: None)
    assert wrong == {"a": f"its process ended with 3: see {log}."}
    assert int(log.read_text().splitlines()[-1]) != os.getpgrp()


def test_each_run_has_a_folder_and_a_log_of_its_own() -> None:
    entries, _, _ = plan("deq --lr 0.1,deq --lr 0.2", TINY)
    runs = [entry.run(Path("out"), seed) for entry in entries for seed in (0, 1)]
    assert len({run.folder for run in runs} | {run.log for run in runs}) == 8


@pytest.mark.slow
def test_a_killed_comparison_goes_on_with_the_same_command_and_loses_nothing(
    tmp_path: Path,
) -> None:
    words = ["compare", "--models", "deq,neural-ode", "--seeds", "1", "--save-every", "0", *SMALL]
    unbroken = tmp_path / "unbroken"
    done("train", "--model", "deq", "--out", unbroken, *SMALL)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "homotopy_deq.cli", *words, "--out", str(out)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    while process.poll() is None and not (out / "deq-0" / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lock, begun = out / "deq-0" / "lock", time.monotonic()
    while Path(f"/proc/{lock.read_text().strip()}").exists():  # its child ends with it
        assert time.monotonic() - begun < 60
        time.sleep(0.1)
    assert not (out / "compare.json").exists()
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "wrote compare.json" in told
    files = [folder / CHECKPOINT for folder in (unbroken, out / "deq-0")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert list(json.loads((out / "compare.json").read_text())["models"]) == ["deq", "neural-ode"]
