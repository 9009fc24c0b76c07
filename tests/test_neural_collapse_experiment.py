from __future__ import annotations

import gzip
import json
import math
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from experiments import neural_collapse
from experiments.collapse_runs import Config, Job, cases, ideal, jobs
from experiments.collapse_summary import verdict
from experiments.tables import collapse as tables
from homotopy_deq.theory.paired import paired


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Runs of a second: noisy squares, one place a class, as idx files."""
    draw = np.random.default_rng(0)
    for part, each in (("train", 100), ("t10k", 10)):
        labels = (np.arange(10 * each) % 10).astype(np.uint8)
        images = draw.integers(0, 100, (len(labels), 28, 28), dtype=np.uint8)
        for k in range(10):
            images[labels == k, 2 * k : 2 * k + 8, 2 * k : 2 * k + 8] = 255
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            path = tmp_path / "data" / f"{part}-{kind}-ubyte.gz"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(gzip.compress(head + values.tobytes()))
    return Config(
        tmp_path / "data", work=tmp_path / "runs", device="cpu", most=100, channels=2, features=10,
        steps=3, points=2, seeds=1,
    )  # fmt: skip


def test_a_stopped_experiment_goes_on_and_does_no_run_twice(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.collapse_runs.RATIOS", (100,))
    monkeypatch.setattr("experiments.collapse_runs.SPLITS", ((5, 5),))
    wanted = [job.name for job in jobs(config)]
    assert wanted[0] == "fashion-mnist-balanced-deq-0" and len(wanted) == 6
    begun = neural_collapse.work(config, math.inf)
    assert next(begun).name == wanted[0]
    first = neural_collapse.file(config, jobs(config)[0]).read_bytes()
    begun.close()  # as a kill between two runs
    neural_collapse.main(config, tmp_path)
    assert neural_collapse.file(config, jobs(config)[0]).read_bytes() == first
    assert list(neural_collapse.work(config, math.inf)) == []
    found = json.loads((tmp_path / "neural_collapse.json").read_text())["result"]
    assert found["runs finished"] == found["runs planned"] == 6
    assert len(found["parameters"]) == 1  # of all peers
    imbalanced = found["cases"]["fashion-mnist-R100-5-5"]
    assert imbalanced["train images"] == 5 * 100 + 5 * 1
    assert len(imbalanced["curves"]["deq"]["nc1"]) == 2
    for case in found["cases"].values():
        for peer in case["peers"].values():
            assert peer["objective"] > peer["lower bound"]
    assert (config.work / "fashion-mnist-balanced.png").exists()
    monkeypatch.setattr("experiments.tables.collapse.RESULTS", tmp_path)
    monkeypatch.setattr("experiments.tables.markdown.RESULTS", tmp_path)
    said = tables.neural_collapse()
    assert "6 of 6 runs" in said and "| fashion-mnist, R = 100, (5, 5) | DEQ |" in said
    (tmp_path / "neural_collapse.json").unlink()
    assert tables.neural_collapse() == ""
    with pytest.raises(SystemExit, match="other settings"):
        neural_collapse.main(replace(config, steps=4), tmp_path)


def test_no_run_is_begun_after_the_time_is_up_or_while_another_process_is_at_it(
    config: Config,
) -> None:
    assert list(neural_collapse.work(config, 0.0)) == []
    name = jobs(config)[0].name
    with neural_collapse.locked(config.work / "locks" / name):
        assert next(neural_collapse.work(config, math.inf)).name != name


def test_a_decay_weaker_by_the_gain_predicts_of_the_explicit_peer_what_the_deq_has(
    config: Config,
) -> None:
    for case in (cases(config)[0], cases(config)[-1]):
        deq, control = (ideal(config, case, peer) for peer in ("deq", "explicit-weak"))
        assert deq[0] == pytest.approx(control[0], rel=1e-8)  # in sqrt(G) W and sqrt(G) h
        assert deq[0] < ideal(config, case, "explicit")[0]


def test_the_band_is_students_and_the_verdict_says_whether_it_holds_0() -> None:
    found = paired([1.0, 2.0, 3.0])
    half = 4.302653 / 3**0.5  # t of 2 degrees of freedom at 97.5%, s = 1
    assert found["band"] == pytest.approx([2 - half, 2 + half], rel=1e-6)
    assert found["verdict"] == "undecided"
    assert paired([1.9, 2.0, 2.1])["verdict"] == "better"
    assert paired([-1.9, -2.0, -2.1])["verdict"] == "worse"
    assert paired([1.0])["verdict"] == "undecided" and paired([])["mean"] is None


def test_a_verdict_is_of_means_over_the_training_sets_that_every_seed_has() -> None:
    def run(seed: int, peer: str, ratio: int, right: float) -> dict[str, object]:
        of = {"data": "d", "ratio": ratio, "majority": 5, "minority": 5, "seed": seed, "peer": peer}
        return {**of, "accuracy": right, "majority accuracy": right, "minority accuracy": right}

    runs = [run(s, p, r, {"deq": 0.5 + r / 1000, "explicit": 0.4}[p])
            for s in (0, 1) for p in ("deq", "explicit") for r in (10, 50)]  # fmt: skip
    runs.append(run(0, "deq", 100, 0.0))  # its peer is not done
    found = verdict(runs)["d"]
    assert found["training sets"] == ["R = 10, (5, 5)", "R = 50, (5, 5)"]
    assert found["accuracy"]["mean"] == pytest.approx(0.1 + 0.03)
    assert found["accuracy"]["DEQ ahead"] == "4 of 4"


def test_jobs_of_one_seed_stand_side_by_side_so_that_a_stopped_call_leaves_pairs(
    config: Config,
) -> None:
    every = jobs(replace(config, seeds=3, cifar10=Path("c")))
    assert len(every) == 3 * 3 * (10 + 2)
    assert [j.peer for j in every[:3]] == ["deq", "explicit", "explicit-weak"]
    order = list(dict.fromkeys(j.case.name for j in every))
    assert order[:4] == ["fashion-mnist-balanced", "fashion-mnist-R100-5-5", "cifar10-balanced",
                         "cifar10-R100-5-5"]  # fmt: skip
    assert isinstance(every[0], Job)
