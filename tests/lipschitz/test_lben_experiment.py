"""The experiment on fine-tuning: it goes on where it was stopped, and its tests are exact."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("scipy")

from experiments.lben import main, parsed
from experiments.lben_certified import paired, share, verdict
from experiments.lben_settings import PRESETS, Config
from experiments.lben_training import Course, Images, OutOfTime, Watch, train
from experiments.tables import lipschitz
from homotopy_deq.training.checkpoint import load_checkpoint
from homotopy_deq.training.optim import triangular


def tiny(tmp_path: Path, name: str, **changed: Any) -> Config:
    given: dict[str, Any] = {
        "work": tmp_path / name, "out": tmp_path / name, "device": "cpu", "kinds": ("sll",),
        "attack": 8, "limit": 128, "test_limit": 32,
    }  # fmt: skip
    return replace(PRESETS["tiny"], **given | changed)


def figures(config: Config) -> dict[str, Any]:
    body = json.loads((config.out / "lben_tiny.json").read_text())["result"]
    for row in body["rows"]:
        for key in ("seconds", "seconds to certify"):
            row.pop(key, None)
    return body  # type: ignore[no-any-return]


def test_a_call_that_was_stopped_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.lben_training.EVERY", 5)
    whole = tiny(tmp_path, "whole")
    main(whole)
    parts = tiny(tmp_path, "parts", minutes=0.0)  # five steps a call
    main(parts)
    assert figures(parts)["rows"] == []
    for _ in range(4):
        main(parts)
    one, other = figures(whole), figures(parts)
    for body in (one, other):
        for row in body["rows"]:
            row.pop("losses", None)
    assert one == other
    assert [row["part"] for row in one["rows"]] == [
        "sll explicit", "sll lben", "sll longer 0.001", "sll tuned 0.001",
        "sll tuned 0.001 penalty",
    ]  # fmt: skip
    rows = {row["part"]: row for row in one["rows"]}
    for head in lipschitz.HEADS:  # the same map
        assert rows["sll lben"][head] == rows["sll explicit"][head]
    assert all(row["attack"]["found"] == 0 for row in one["rows"])
    assert all(row["constant before the head"] < 1 + 1e-6 for row in one["rows"])


def test_what_is_certified_is_kept_before_the_attack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(tmp_path, "killed", course=Course(steps=2, batch=32), rates=())

    def killed(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("experiments.lben.attacked", killed)
        main(config)
    kept = config.work / config.name / "sll_explicit.certified.json"
    clean = json.loads(kept.read_text())["clean"]
    kept.write_text(kept.read_text().replace(json.dumps(clean), "[7.0, 7.0, 7.0]"))
    main(config)
    rows = {row["part"]: row for row in figures(config)["rows"]}
    assert rows["sll explicit"]["clean"] == [7.0, 7.0, 7.0]  # read, not certified anew
    assert rows["sll lben"]["clean"] == clean
    assert not list(kept.parent.glob("*.pt")) and not list(kept.parent.glob("*.ckpt"))


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    main(tiny(tmp_path, "one", kinds=()))
    with pytest.raises(SystemExit, match="another commit or configuration"):
        main(tiny(tmp_path, "one", kinds=(), limit=64))


def test_a_table_is_empty_until_it_is_measured_and_shows_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("lipschitz", "markdown"):
        monkeypatch.setattr(f"experiments.tables.{module}.RESULTS", tmp_path / "shown")
    assert lipschitz.lben("lben_tiny", "Tiny") == ""
    main(tiny(tmp_path, "shown", course=Course(steps=2, batch=32)))
    page = lipschitz.lben("lben_tiny", "Tiny")
    assert "sll tuned 0.001 penalty - sll longer 0.001" in page and "0 of " in page


def test_a_schedule_by_the_clock_goes_on_where_the_last_call_ended(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, course = nn.Linear(4, 3), Course(seconds=3.0, batch=2)
    images = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]), 0)
    file = tmp_path / "state"
    with pytest.raises(OutOfTime):
        train(model, lambda x: model(x.flatten(1)), images, course, file, Watch(1.0))
    kept = load_checkpoint(file).meta
    assert 1.0 <= kept["seconds"] < 3.0
    spent = train(model, lambda x: model(x.flatten(1)), images, course, file, Watch())
    assert spent["steps"] > kept["step"] and 3.0 <= spent["seconds"] < 4.0
    # Killed before what follows was done, the training is not repeated.
    assert train(model, lambda x: model(x.flatten(1)), images, course, file, Watch()) == spent
    rates = [course.rate(0, t) for t in (0.0, 1.2, 2.4, 3.0)]
    assert rates == pytest.approx([triangular(t, 3000, 1e-2, 0.0) for t in (0, 1200, 2400, 3000)])


def test_an_augmented_image_is_a_shifted_or_mirrored_one() -> None:
    x = torch.zeros(64, 2, 5, 5, dtype=torch.uint8)
    x[:, 0, 2, 1], x[:, 1, 2, 1] = 255, 51
    y = torch.arange(64)
    images = Images(x, y, 0, pad=1, flip=True)
    found, labels = images.batch(3, 32)
    assert torch.equal(found, images.batch(3, 32)[0])
    assert len(set(labels.tolist())) == 32
    places = found[:, 0].flatten(1).argmax(1)
    # Rows 1 to 3; columns 0 to 2, or mirrored 2 to 4.
    assert set((places // 5).tolist()) == {1, 2, 3} and set((places % 5).tolist()) == set(range(5))
    assert torch.equal(found.amax((2, 3)), torch.tensor([1.0, 0.2]).expand(32, 2))
    both = torch.cat([images.batch(step, 32)[1] for step in (2, 3)])
    assert torch.equal(both.sort().values, y)  # an epoch


def test_a_paired_test_sees_the_images_on_which_two_networks_differ() -> None:
    radius = np.zeros(100)
    radius[:20] = 0.5
    mine = {"right": radius > 0, "radius": radius}
    other = {"right": radius > 0, "radius": np.where(np.arange(100) < 10, 0.0, radius)}
    found = paired(mine, other, 0)
    assert found["clean"] == {
        "gained": 0, "lost": 0, "points": 0.0, "band": [0.0, 0.0], "p": 1.0,
    }  # fmt: skip
    test = found["72/255"]
    assert (test["gained"], test["lost"], test["points"]) == (10, 0, 10.0)
    assert test["p"] == pytest.approx(2 * 0.5**10)  # McNemar's exact test
    assert 0 < test["band"][0] < 10 < test["band"][1] < 20
    assert found["255/255"]["gained"] == 0  # 0.5 is below 1
    assert verdict(found, 4) == "improved"
    assert verdict(found, 40) == "no difference seen"
    assert verdict(paired(other, mine, 0), 4) == "worse"


def test_a_share_has_its_exact_band() -> None:
    # Clopper and Pearson of 0 of 10: 1 - 0.025^(1/10) above.
    assert share(np.zeros(10, bool)) == [0.0, 0.0, round(100 * (1 - 0.025**0.1), 2)]


def test_a_command_line_names_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    config, jobs = parsed(["--preset", "cifar", "--jobs", "3", "--steps", "7", "--only", "lben"])
    assert (config.name, jobs, config.course.steps, config.kinds) == (
        "lben_cifar10",
        3,
        7,
        ("lben",),
    )
    with pytest.raises(SystemExit):
        parsed(["--only", "resnet"])
    assert "sandwich" in capsys.readouterr().err
