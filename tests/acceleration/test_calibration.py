"""Costs: measured once, kept in a file, believed only where they are this machine's."""

import json
import os
import runpy
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from homotopy_deq.acceleration import calibration
from homotopy_deq.acceleration.cost import MARGIN, Costs, Line, Point, scaled
from homotopy_deq.acceleration.kernels import Auto, timing

KIND = "matrix cpu float64"


def point(batch: int = 4, units: int = 100, work: int = 50, dense: float = 1.0) -> Point:
    lines = Line(0.01, 0.02), Line(0.01, 0.005), Line(0.02, 0.004)
    return Point(batch, units, work, Costs(dense, 0.25, 0.125, *lines))


@pytest.fixture
def measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Keep the file in a folder of the test, measure nothing, and list what was asked for."""
    asked: list[str] = []

    def measure(kind: str) -> Sequence[Point]:
        asked.append(kind)
        return [point(dense=float(len(asked)))]

    monkeypatch.setenv("HOMOTOPY_DEQ_CACHE", str(tmp_path / "made" / "here"))
    monkeypatch.setattr(timing, "measure", measure)
    calibration._measured.cache_clear()
    yield asked
    calibration._measured.cache_clear()


def another_process() -> None:
    calibration._measured.cache_clear()


def test_a_kind_is_measured_once_and_read_by_every_later_process(measurements: list[str]) -> None:
    first = calibration.measured(KIND)
    assert calibration.measured(KIND) == first
    another_process()
    assert calibration.measured(KIND) == first == [point()]
    assert measurements == [KIND]
    calibration.measured("tiles cpu float32")
    another_process()
    assert calibration.measured(KIND) == first
    assert measurements == [KIND, "tiles cpu float32"]


def test_calibrate_measures_everything_anew(measurements: list[str]) -> None:
    assert calibration.measured(KIND)[0].costs.dense == 1
    assert calibration.calibrate() == calibration.path()
    assert calibration.measured(KIND)[0].costs.dense > 1
    assert set(calibration.KINDS) <= set(measurements[1:])


DAMAGE = {
    "empty": lambda body: "",
    "cut off": lambda body: body[: len(body) // 2],
    "not JSON": lambda body: "costs",
    "a list": lambda body: "[]",
    "another machine": lambda body: body.replace(
        json.dumps(torch.__version__), json.dumps("2.6.0 of another machine")
    ),
    "a name missing": lambda body: body.replace('"look"', '"lock"'),
    "a negative cost": lambda body: body.replace('"dense": 1.0', '"dense": -1.0'),
    "not a number": lambda body: body.replace('"dense": 1.0', '"dense": NaN'),
    "a look of words": lambda body: body.replace('"look": 0.125', '"look": "much"'),
    "a look of nothing": lambda body: body.replace('"look": 0.125', '"look": null'),
    "a line of words": lambda body: body.replace('"call": 0.01', '"call": "long"'),
    "too deep": lambda body: "[" * 100_000,
    "words for numbers": lambda body: body.replace('"batch": 4', '"batch": "four"'),
    "a kind that is no list": lambda body: body.replace("[", '"').replace("]", '"'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_damaged_or_foreign_is_measured_anew(
    measurements: list[str], damage: str
) -> None:
    calibration.measured(KIND)
    body = calibration.path().read_text()
    spoilt = DAMAGE[damage](body)
    assert spoilt != body
    calibration.path().write_text(spoilt)
    another_process()
    assert calibration.measured(KIND)[0].costs.dense == 2
    another_process()
    assert calibration.measured(KIND)[0].costs.dense == 2
    assert measurements == [KIND, KIND]


def test_costs_of_other_threads_lie_in_another_file(measurements: list[str]) -> None:
    calibration.measured(KIND)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        calibration.measured(KIND)
    finally:
        torch.set_num_threads(threads)
    assert measurements == [KIND, KIND]
    calibration.measured(KIND)
    assert len(list(calibration.folder().iterdir())) == 2 and len(measurements) == 2


def test_a_folder_that_cannot_be_written_to_is_said_and_does_no_harm(
    measurements: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOMOTOPY_DEQ_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="HOMOTOPY_DEQ_CACHE"):
        assert calibration.measured(KIND) == [point()]
    assert calibration.measured(KIND) == [point()]
    assert measurements == [KIND]


def test_a_part_is_taken_away_where_the_file_cannot_be_put_in_its_place(
    measurements: list[str],
) -> None:
    (calibration.path() / "in the way").mkdir(parents=True)
    with pytest.warns(UserWarning, match="HOMOTOPY_DEQ_CACHE"):
        calibration.measured(KIND)
    assert list(calibration.folder().iterdir()) == [calibration.path()]


def test_without_a_home_costs_are_measured_and_that_is_said(
    measurements: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("HOMOTOPY_DEQ_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.warns(UserWarning, match="no home folder"):
        assert calibration.measured(KIND) == [point()]


def test_the_file_is_the_users_to_read_and_no_part_is_left(measurements: list[str]) -> None:
    calibration.measured(KIND)
    assert [each.suffix for each in calibration.folder().iterdir()] == [".json"]
    assert stat.S_IMODE(os.stat(calibration.path()).st_mode) & 0o600 == 0o600


def test_costs_scale_with_the_work_of_a_unit_and_calls_do_not() -> None:
    near, far = point(), point(batch=4000, work=10**6)
    found = scaled([far, near], batch=8, units=200, work=100)
    assert found is not None
    before = near.costs
    assert found.dense == pytest.approx(8 * before.dense)  # rows, columns and their length doubled
    assert found.look == pytest.approx(4 * before.look)
    assert found.kept == Line(before.kept.call, pytest.approx(4 * before.kept.unit))
    gather = found.fresh.unit - found.kept.unit  # of weights, for all rows at once
    assert gather == pytest.approx(2 * (before.fresh.unit - before.kept.unit))
    assert found.run.call == before.run.call
    assert scaled([], 8, 200, 100) is None


def test_smaller_sizes_are_not_said_to_be_looked_at_faster() -> None:
    found = scaled([point()], batch=1, units=10, work=5)
    assert found is not None and found.look == point().costs.look
    assert not found.looks


def test_a_way_is_taken_where_it_leaves_a_margin() -> None:
    costs = point().costs
    assert costs.pays(MARGIN - 0.125) and not costs.pays(MARGIN - 0.124)


def test_what_is_measured_is_finite_and_makes_small_sizes_dense() -> None:
    sizes, batches = timing.SIZES, timing.BATCHES
    try:
        timing.SIZES, timing.BATCHES = (32,), (2,)
        (found,) = timing.measure(KIND)
    finally:
        timing.SIZES, timing.BATCHES = sizes, batches
    assert (found.batch, found.units, found.work) == (2, 32, 32)
    assert 0 < found.costs.dense < 1 and 0 < found.costs.look < 1
    assert not found.costs.looks  # microseconds, where a look alone takes as long
    kernel = Auto(costs=lambda kind, *size: scaled([found], *size)).linear(torch.eye(16))
    r = torch.ones(1, 16)
    assert kernel.moved(r, r, r)[1] == kernel.multiply_adds(r)


def test_one_command_measures_anew(
    measurements: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    runpy.run_module("homotopy_deq.acceleration", run_name="__main__")
    assert str(calibration.path()) in capsys.readouterr().out
    assert set(measurements) == set(calibration.KINDS)
