"""The folder of a run: one run at a time, told before the work if it cannot be written to."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from homotopy_deq.training import CHECKPOINT, METRICS, check_folder, load_checkpoint, read_metrics
from homotopy_deq.training.checkpoint import replace_file
from homotopy_deq.training.folder import locked, require_room
from homotopy_deq.training.optim import cosine
from tests.test_cli import refused
from tests.training.tiny import CONFIG, At, run

ROOT = Path(__file__).parents[2]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write more to a file, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("how", [{"overwrite": True}, {"resume": True}])
def test_a_second_run_in_the_same_folder_is_refused_and_harms_nothing(
    how: dict[str, bool], tmp_path: Path
) -> None:
    def second() -> None:
        with pytest.raises(FileExistsError, match=rf"process {os.getpid()}\) is writing to"):
            run(tmp_path / "both", **how)

    found = run(tmp_path / "both", At(3, second))
    assert found.history == run(tmp_path / "alone").history
    same = [(tmp_path / name / CHECKPOINT).read_bytes() for name in ("both", "alone")]
    assert same[0] == same[1]


def test_the_lock_of_a_process_that_was_killed_is_lifted(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from homotopy_deq.training.folder import locked\n"
        "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=False)
    with locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    told = refused("train", "--out", tmp_path / "file" / "run", "--dataset", "mnist")
    assert f"{tmp_path / 'file'} is a file" in told.replace("\n", " ")
    readable = Path("/proc/self")  # of the system: not even root may write there
    if readable.is_dir():
        with pytest.raises(PermissionError):
            check_folder(readable / "run")


def test_a_disk_without_room_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="make room"):
        require_room(tmp_path, 2**62)


def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "c"
    replace_file(path, b"old")
    with files_of_at_most(10), pytest.raises(OSError, match=f"^{path} could not be written"):
        replace_file(path, b"newer and longer")
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["c"]


def test_a_disk_that_fills_up_in_a_run_leaves_what_can_be_resumed(tmp_path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))

    try:
        with pytest.raises(OSError, match=CHECKPOINT):
            run(tmp_path / "full", At(3, fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list((tmp_path / "full").glob("*.tmp"))
    assert run(tmp_path / "full", resume=True).history == run(tmp_path / "other").history


def test_more_epochs_train_on_with_rates_that_fall_to_the_new_end(tmp_path: Path) -> None:
    short = run(tmp_path)
    found = run(tmp_path, resume=True, epochs=4)
    assert [record["epoch"] for record in found.history] == [1, 2, 3, 4]
    assert list(found.history[:2]) == list(short.history)
    rates = [record["lr"] for record in found.history]
    steps = load_checkpoint(tmp_path / CHECKPOINT).meta["place"]["batches"]
    # The rate of the step that follows an epoch, of two whose cosine began after the second.
    wanted = [cosine(k * steps, 2 * steps, CONFIG.lr, CONFIG.final_lr) for k in (1, 2)]
    assert rates == pytest.approx(2 * wanted, rel=1e-12)
    assert [record["epoch"] for record in read_metrics(tmp_path / METRICS)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match=r"training\.epochs"):
        run(tmp_path, resume=True, epochs=3)


def test_a_longer_run_that_crashed_ends_as_if_it_had_not(tmp_path: Path) -> None:
    def crash() -> None:
        raise MemoryError

    for name in ("broken", "unbroken"):
        run(tmp_path / name, epochs=1)
    with pytest.raises(MemoryError):
        run(tmp_path / "broken", At(8, crash), resume=True, epochs=3)
    for name in ("broken", "unbroken"):
        run(tmp_path / name, resume=True, epochs=3)
    same = [(tmp_path / name / CHECKPOINT).read_bytes() for name in ("broken", "unbroken")]
    assert same[0] == same[1]
