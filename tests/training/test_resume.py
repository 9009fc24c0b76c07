from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from homotopy_deq.cli import app
from homotopy_deq.training import (
    CHECKPOINT,
    METRICS,
    Checkpoint,
    CheckpointError,
    Interrupted,
    load_checkpoint,
    read_metrics,
    save_checkpoint,
)
from tests.training.tiny import ALL, CONFIG, At, run
from tests.training.torchrun import wait_for_mid_epoch

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "limit": 100, "test-limit": 40, "hidden": 4, "head": 8, "groups": 2, "batch": 8, "epochs": 2,
    "pad": 1, "start-every": 2, "jacobian-penalty": 0.1, "residual-penalty": 0.1,
    "solver": "anderson", "rtol": 0.01, "save-every": 0, "noise": 0.25, "consistency": 1,
    "adversary-steps": 1, "adversary-radius": 0.25,
}  # fmt: skip
FLAGS = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))] + ["--cpu"]


def unbroken(tmp_path: Path, **changes: Any) -> bytes:
    run(tmp_path / "unbroken", **changes)
    return (tmp_path / "unbroken" / CHECKPOINT).read_bytes()


def crash() -> None:
    raise MemoryError("as good as any")


@pytest.mark.parametrize("step", [1, 4, 5, 7])  # of 10: first, last of an epoch, first, middle
def test_a_run_that_crashed_ends_as_if_it_had_not(tmp_path: Path, step: int) -> None:
    folder = tmp_path / "broken"
    with pytest.raises(MemoryError):
        run(folder, At(step, crash))
    run(folder, resume=True)
    assert (folder / CHECKPOINT).read_bytes() == unbroken(tmp_path)


@pytest.mark.parametrize("step", [2, 5, 8])
def test_with_noise_adversary_and_consistency_too(tmp_path: Path, step: int) -> None:
    folder = tmp_path / "broken"
    with pytest.raises(MemoryError):
        run(folder, At(step, crash), smoothing=ALL)
    run(folder, resume=True, smoothing=ALL)
    assert (folder / CHECKPOINT).read_bytes() == unbroken(tmp_path, smoothing=ALL)


def test_what_was_done_since_the_last_save_is_done_again(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        run(tmp_path, At(7, crash), save_every=1e9)  # saved at the end of epoch 1 alone
    place = load_checkpoint(tmp_path / CHECKPOINT).meta["place"]
    assert (place["epoch"], place["batch"]) == (1, 0)
    assert run(tmp_path, resume=True).history == run(tmp_path / "other").history


def test_killed_with_9_and_resumed_the_weights_are_identical(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "homotopy_deq.cli", "train", *FLAGS, "--out", "killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, **quiet)
    file = tmp_path / "killed" / CHECKPOINT
    wait_for_mid_epoch(process, file)
    process.send_signal(signal.SIGKILL)
    _, message = process.communicate()
    assert process.returncode == -signal.SIGKILL, message.decode()
    place = load_checkpoint(file).meta["place"]
    assert place["epoch"] == 1 and 0 < place["batch"] < place["batches"]  # in mid-epoch

    def finish(folder: str, *more: str) -> bytes:
        out = tmp_path / folder
        done = CliRunner().invoke(app, ["train", *FLAGS, "--out", str(out), *more])
        assert done.exit_code == 0, done.output
        return (out / CHECKPOINT).read_bytes()

    assert finish("killed", "--resume") == finish("unbroken")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_batch_with_everything_saved(
    tmp_path: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted):
        run(tmp_path, At(3, lambda: os.kill(os.getpid(), number)), save_every=1e9)
    assert signal.getsignal(number) is before
    assert load_checkpoint(tmp_path / CHECKPOINT).meta["place"]["batch"] == 3
    run(tmp_path, resume=True)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, At(3, twice))
    assert run(tmp_path, resume=True).history == run(tmp_path / "other").history


def test_a_finished_run_can_be_resumed_and_changes_nothing(tmp_path: Path) -> None:
    first = run(tmp_path)
    written = (tmp_path / CHECKPOINT).read_bytes()
    assert run(tmp_path, resume=True) == first
    assert (tmp_path / CHECKPOINT).read_bytes() == written


def test_a_resumed_run_writes_each_epoch_to_the_metrics_once(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        run(tmp_path, At(7, crash))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"epoch": 2, "cut sho')
    run(tmp_path, resume=True)
    assert [record["epoch"] for record in read_metrics(tmp_path / METRICS)] == [1, 2]


def test_a_kill_before_the_checkpoint_of_an_epoch_loses_no_line_of_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(path: Path, checkpoint: Checkpoint) -> None:
        if checkpoint.meta["history"]:
            crash()
        save_checkpoint(path, checkpoint)

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr("homotopy_deq.training.loop.save_checkpoint", save)
        run(tmp_path)
    place = load_checkpoint(tmp_path / CHECKPOINT).meta["place"]
    assert (place["epoch"], place["batch"]) == (0, place["batches"])
    run(tmp_path, resume=True)
    assert [record["epoch"] for record in read_metrics(tmp_path / METRICS)] == [1, 2]


def test_resuming_with_another_setting_names_it(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        run(tmp_path, At(3, crash))
    with pytest.raises(CheckpointError, match=r"training\.lr"):
        run(tmp_path, resume=True, lr=0.1)
    run(tmp_path, resume=True, save_every=CONFIG.save_every + 1)  # changes no result


def test_a_folder_with_a_run_is_not_overwritten_unasked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "new", resume=True)
    run(tmp_path)
    written = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(FileExistsError):
        run(tmp_path)
    assert (tmp_path / CHECKPOINT).read_bytes() == written
