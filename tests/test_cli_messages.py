"""What the command line says while it works and when it stops."""

from __future__ import annotations

import io
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from homotopy_deq import __version__
from homotopy_deq.cli import app
from homotopy_deq.cli.report import counting, failing
from homotopy_deq.data import DATASETS, load
from homotopy_deq.settings import RECIPES
from homotopy_deq.training import Bar, Interrupted
from tests.test_cli import call, done, refused
from tests.training.test_resume import crash
from tests.training.tiny import At
from tests.training.tiny import run as train

TINY = ["--limit", 100, "--hidden", 4, "--head", 8, "--groups", 2, "--epochs", 1, "--cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "homoode"
    told = done("train", "--out", folder, *TINY)
    assert "100.0% reached t1" in told and "converged" not in told
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"{k}.png" for k in range(3)]
    for file, image in zip(files, load("digits").test_images, strict=False):
        Image.fromarray(image[0].numpy()).save(file)
    return files


def test_without_a_terminal_a_line_now_and_then_tells_how_far_a_run_is(tmp_path: Path) -> None:
    told = io.StringIO()
    train(tmp_path / "a", Bar(Console(file=told, width=200), every=0.0), epochs=1)
    assert [f"epoch 1/1  batch {k}/5  train loss" in told.getvalue() for k in (1, 5)] == [True] * 2
    told = io.StringIO()
    train(tmp_path / "b", Bar(Console(file=told, width=200), every=1e9), epochs=1)
    assert "batch" not in told.getvalue()


def test_a_resumed_run_says_where_it_goes_on(tmp_path: Path) -> None:
    def told(**more: Any) -> str:
        text = io.StringIO()
        train(tmp_path, Bar(Console(file=text, width=200), every=1e9), **more)
        return text.getvalue().splitlines()[0]

    with pytest.raises(MemoryError):  # saved at the end of epoch 1 alone
        train(tmp_path, At(7, crash), save_every=1e9)
    assert told(resume=True) == "going on in epoch 2/2, after batch 0/5"
    assert told(resume=True) == "all 2 epochs are done"
    assert told(overwrite=True).startswith("epoch 1/2")


def test_other_commands_tell_how_far_they_are_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("homotopy_deq.cli.report.HEARTBEAT", 0.01)
    with counting("rk4", 2000) as advance:
        advance(1)
        time.sleep(0.02)
        advance(1499)
    assert "rk4: 1,500 of 2,000" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [Interrupted("Stopped in epoch 1."), KeyboardInterrupt()])
def test_what_a_user_stopped_is_no_error(
    stop: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as left, failing():
        raise stop
    told = capsys.readouterr().err
    assert left.value.exit_code == 130
    assert told.startswith("Stopped") and "Error" not in told


def test_a_warning_on_the_command_line_is_one_line_without_a_place_in_our_files(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with failing():
        warnings.warn("mind the gap", stacklevel=1)
    assert capsys.readouterr().err == "Warning: mind the gap\n"


def test_one_bad_file_does_not_take_the_answers_for_the_others_with_it(
    run: Path, images: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("no image")
    files = [images[0], tmp_path / "bad.png", tmp_path / "none.png", images[1]]
    both = call("predict", run, *files, "--json", "--cpu", "--batch", 2)
    assert both.exit_code == 1
    assert "2 of 4 files could not be read" in both.stderr
    assert "bad.png" in both.stderr and "none.png" in both.stderr
    rows = json.loads(both.stdout)
    assert [row["image"] for row in rows] == [str(file) for file in files]
    assert ["error" in row for row in rows] == [False, True, True, False]
    good = json.loads(done("predict", run, images[0], images[1], "--json", "--cpu"))
    for row, alone in zip((rows[0], rows[3]), good, strict=True):
        assert row["classes"][0]["class"] == alone["classes"][0]["class"]
    table = call("predict", run, *files, "--cpu").stdout
    assert table.count(" yes ") == 2
    assert call("predict", run, files[1], "--cpu").exit_code == 1


def test_a_flow_reaches_its_end_and_does_not_converge(
    run: Path, images: list[Path], tmp_path: Path
) -> None:
    found = tmp_path / "found.json"
    flags = ["--solver", "rk4", "--solver", "rk4+anderson", "--limit", 20, "--json", found]
    told = done("evaluate", run, *flags)
    assert told.count("reached t1") == told.count("converged") == 1
    rows = json.loads(found.read_text())["results"]
    assert [row["success"] for row in rows.values()] == ["reached t1", "converged"]
    few = ["--solver", "dopri5", "--rtol", 1e-9, "--atol", 1e-9, "--max-steps", 1, "--limit", 20]
    assert "20 of 20 samples did not reach t1" in call("evaluate", run, *few).output
    assert "reached t1" in done("predict", run, images[0], "--cpu")
    assert "converged" in done("predict", run, images[0], "--cpu", "--solver", "anderson")


def test_a_batch_that_asks_for_more_memory_than_there_is_is_refused_before_the_others(
    run: Path, tmp_path: Path
) -> None:
    # States of 4 x 4 x 4 numbers: 256 of them make a matrix of 2 GiB.
    flags = ["--solver", "rk4", "--solver", "scipy_solver", "--limit", 300]
    told = refused("evaluate", run, *flags, "--json", tmp_path / "found.json")
    assert "2.0 GiB for its Jacobian. Use --batch 171" in told
    assert "rk4" not in told.replace("--solver", "")
    done("evaluate", run, *flags[:4], "--batch", 8, "--limit", 8)


def test_the_version_is_told() -> None:
    assert done("--version") == f"homotopy-deq {__version__}\n"


def test_info_fits_in_80_columns() -> None:
    told = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["info"]).output
    assert max(map(len, told.splitlines())) <= 80
    assert told.count("fashion-mnist") == 2  # as a data set and above its recipe, in one piece


def test_every_recipe_is_of_a_data_set_that_can_be_read() -> None:
    assert set(RECIPES) <= set(DATASETS)


def test_the_warning_about_a_folder_without_test_images_points_at_the_call(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.fromarray(np.full((4, 4), k, np.uint8)).save(tmp_path / name / f"{k}.png")

    def user() -> None:
        load("imagefolder", tmp_path)

    assert place(user) == (__file__, user.__code__.co_firstlineno + 1)


def place(call: Callable[[], None]) -> tuple[str, int]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    (only,) = caught
    return only.filename, only.lineno
