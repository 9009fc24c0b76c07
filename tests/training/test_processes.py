"""A run is the same whatever the number of processes that share its steps."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from homotopy_deq.cli import app
from homotopy_deq.training import (
    CHECKPOINT,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    train,
)
from homotopy_deq.training.folder import LOCK
from homotopy_deq.training.processes import check_devices, turns_of
from tests.training.test_resume import FLAGS, crash
from tests.training.tiny import CONFIG, DEQ, At, data, model, run
from tests.training.torchrun import CLI, finish, start, wait_for_mid_epoch


def parameters(folder: Path) -> dict[str, Tensor]:
    return load_checkpoint(folder / CHECKPOINT).under("model")


def apart(one: Path, other: Path) -> float:
    """Return the largest difference of two runs' parameters."""
    a, b = parameters(one), parameters(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_a_step_of_two_parts_is_that_of_one_batch_of_both(tmp_path: Path) -> None:
    images = data()
    same = replace(CONFIG, validation=0.2, jacobian_penalty=0.0)  # 64 images, no random numbers
    for name, batch, parts in (("one", 16, 1), ("two", 8, 2), ("four", 4, 4)):
        network = model(images, DEQ, contraction=0.9, kernel=0, dropout=0.0).double()
        train(network, images, replace(same, batch=batch, parts=parts), tmp_path / name)
    # Rounding in double precision, which 8 steps of Adam magnify.
    assert apart(tmp_path / "one", tmp_path / "two") < 1e-9
    assert apart(tmp_path / "one", tmp_path / "four") < 1e-9


def test_a_run_keeps_its_parts_when_it_goes_on(tmp_path: Path) -> None:
    with pytest.raises(MemoryError):
        run(tmp_path / "broken", At(2, crash), parts=2)
    stored = load_checkpoint(tmp_path / "broken" / CHECKPOINT)
    assert stored.meta["about"]["parts"] == 2
    run(tmp_path / "broken", resume=True, parts=2)
    run(tmp_path / "unbroken", parts=2)
    assert apart(tmp_path / "broken", tmp_path / "unbroken") == 0


def test_a_run_of_two_processes_of_the_version_before_is_gone_on_with_by_one(
    tmp_path: Path,
) -> None:
    run(tmp_path / "unbroken", parts=2)
    with pytest.raises(MemoryError):
        run(tmp_path / "old", At(2, crash), parts=2)
    stored = load_checkpoint(tmp_path / "old" / CHECKPOINT)
    about = {k: v for k, v in stored.meta["about"].items() if k != "parts"}
    del about["training"]["parts"]
    meta = {**stored.meta, "about": {**about, "processes": 2}}
    save_checkpoint(tmp_path / "old" / CHECKPOINT, replace(stored, meta=meta))
    run(tmp_path / "old", resume=True)
    assert apart(tmp_path / "old", tmp_path / "unbroken") == 0


@pytest.mark.parametrize("parts", [0, "2", 2])
def test_parts_that_are_none_or_do_not_fit_the_place_are_refused(
    tmp_path: Path, parts: Any
) -> None:
    with pytest.raises(MemoryError):
        run(tmp_path, At(3, crash))
    stored = load_checkpoint(tmp_path / CHECKPOINT)
    about = {**stored.meta["about"], "parts": parts}
    save_checkpoint(tmp_path / CHECKPOINT, replace(stored, meta={**stored.meta, "about": about}))
    with pytest.raises(CheckpointError, match=r"about\.parts|5 batches"):
        run(tmp_path, resume=True)


def test_processes_that_cannot_share_the_parts_are_told_so_in_one_line() -> None:
    assert [turns_of(4, processes) for processes in (1, 2, 4)] == [4, 2, 1]
    for parts, processes in ((1, 2), (4, 3)):
        with pytest.raises(ValueError, match=f"{processes} processes cannot share") as refused:
            turns_of(parts, processes)
        assert "\n" not in str(refused.value) and "--parts" in str(refused.value)


def test_more_processes_than_gpus_are_refused_in_one_line() -> None:
    check_devices(8, 0)  # on the CPU
    check_devices(2, 2)
    with pytest.raises(ValueError, match="3 processes on a machine with 2 GPUs.*--cpu") as refused:
        check_devices(3, 2)
    assert "\n" not in str(refused.value)


def test_they_are_refused_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    words = ["train", "--dataset", "cifar10", "--data", str(tmp_path / "none")]
    told = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "run")])
    assert told.exit_code == 2 and "2 processes on a machine with 1 GPU" in told.output


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    words = ("train", *FLAGS, "--epochs", "1", "--parts", "2", "--out")
    finish(2, *CLI, *words, "two", folder=tmp_path)
    one = CliRunner().invoke(app, [*words, str(tmp_path / "one")])
    assert one.exit_code == 0, one.output
    assert apart(tmp_path / "one", tmp_path / "two") < 1e-4
    two = load_checkpoint(tmp_path / "two" / CHECKPOINT).meta
    assert two["place"]["batches"] == 5  # 90 images in full batches of 2 x 8
    assert two["test"]["samples"] == 40  # without the images that pad the last batch


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_killed_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, before: int, after: int
) -> None:
    words = (*CLI, "train", *FLAGS, "--epochs", "4", "--parts", "2", "--out")
    finish(before, *words, "unbroken", folder=tmp_path)
    process = start(before, *words, "killed", folder=tmp_path)
    file = tmp_path / "killed" / CHECKPOINT
    wait_for_mid_epoch(process, file)
    os.kill(int((tmp_path / "killed" / LOCK).read_text()), signal.SIGKILL)  # the first process
    process.communicate()  # torchrun ends the other
    place = load_checkpoint(file).meta["place"]
    assert 1 <= place["epoch"] < 3 and 0 < place["batch"] < place["batches"]  # in mid-epoch
    finish(after, *words, "killed", "--resume", folder=tmp_path)
    found, wanted = (
        load_checkpoint(tmp_path / each / CHECKPOINT) for each in ("killed", "unbroken")
    )
    gap = apart(tmp_path / "killed", tmp_path / "unbroken")
    print(f"{before} -> {after} processes: parameters within {gap:.1e}")
    assert gap < 1e-4
    assert found.meta["place"] == wanted.meta["place"]
    assert [each["train"]["loss"] for each in found.meta["history"]] == pytest.approx(
        [each["train"]["loss"] for each in wanted.meta["history"]], rel=1e-4
    )
    moments = found.under("task"), wanted.under("task")
    assert moments[0].keys() == moments[1].keys()
    assert all(torch.allclose(moments[0][k], v, atol=1e-3) for k, v in moments[1].items())
