"""Two versions of the package certify the same models and images, in turn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import certify_speed
from experiments.certify_compared import agreement
from experiments.certify_speed import Config, check_same, main
from experiments.results import ROOT
from experiments.versions import unpacked


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("speed")
    size = {"hidden": 4, "kernel": 3, "train_images": 100, "epochs": 1}
    return Config(
        images=2, samples=400, n0=16, deciding=3, group=2, batch=100, models=("monotone",),
        sigmas=(0.25,), sizes={"digits": size},
        before=str(ROOT), work=folder / "work", trained=folder / "models",
    )  # fmt: skip


@pytest.mark.slow
def test_todays_package_agrees_with_itself_and_what_is_done_is_kept(
    small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(replace(small, minutes=0), tmp_path)
    assert not list(tmp_path.iterdir())  # no time for a configuration: nothing is published
    main(small, tmp_path)
    told = json.loads((tmp_path / "certify_speed.json").read_text())["result"]
    (row,) = told["configurations"].values()
    assert row["agreement"]["same class"] == row["agreement"]["images"] == 2
    assert row["agreement"]["votes beyond chance"] == 0
    assert row["verdicts"]["as cold, same n0 and now"][0] == row["verdicts"]["images"] == 3
    cold, now = (row["radius"][which] for which in ("cold, before", "now"))
    assert now["evaluations an image"] < cold["evaluations an image"]
    assert all(cost > 0 for cost in (cold["seconds an image"], now["CPU seconds an image"]))
    assert told["verdict"]["radius, least"] == row["faster"]["radius"]["CPU"]
    limit = cold["CPU seconds an image"] / row["limit, CPU seconds an image"]
    assert told["verdict"]["radius, at the limit"] == [limit, limit] and limit > 1

    def again(*_: object) -> None:
        raise AssertionError("it was measured, and is measured again")

    monkeypatch.setattr(certify_speed, "measure", again)
    main(small, tmp_path)


def test_other_networks_and_commits_that_are_not_there_are_refused(tmp_path: Path) -> None:
    check_same([[1.0, 2.0]], [[1.0005, 2.0]])
    with pytest.raises(SystemExit, match="not the same network"):
        check_same([[1.0, 2.0]], [[1.1, 2.0]])
    with pytest.raises(SystemExit, match="no commit of this checkout"):
        unpacked("0" * 40, tmp_path)


def test_votes_that_differ_by_more_than_chance_are_counted() -> None:
    def of(votes: int) -> dict[str, float]:
        return {"class": 0, "radius": 0.1, "votes": votes, "samples": 1000}

    assert agreement([of(900), of(900)], [of(905), of(895)])["votes beyond chance"] == 0
    assert agreement([of(900), of(900)], [of(905), of(800)])["votes beyond chance"] == 1
    # What abstains may have selected another class, and its votes are of that one.
    other = of(300) | {"class": -1, "radius": 0.0}
    found = agreement([of(900), of(900)], [of(905), other])
    assert (found["votes beyond chance"], found["neither abstains"]) == (0, 1)
    assert found["same class"] == 1
