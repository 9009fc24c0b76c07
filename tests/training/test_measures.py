from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn
from typer.testing import CliRunner

from homotopy_deq.cells import ContractiveCell
from homotopy_deq.cli import app
from homotopy_deq.layers import ImplicitLayer
from homotopy_deq.models import ImageModel, LinearHead, readout
from homotopy_deq.training import CHECKPOINT, METRICS, NeuralCollapse, read_metrics, train
from tests.training.tiny import CONFIG, data, model

TINY = [
    "train", "--limit", "60", "--hidden", "4", "--head", "8", "--groups", "2", "--cpu",
    "--solver", "anderson", "--rtol", "0.1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(True)  # it keeps the first precision that a process asked for


def test_to_track_neural_collapse_changes_no_bit_of_the_run(tmp_path: Path) -> None:
    images = data()
    for name in ("plain", "tracked"):
        network = model(images)
        meter = NeuralCollapse(network, images.train_images, images.train_labels, batch=33)
        measures = {"neural-collapse": meter} if name == "tracked" else {}
        train(network, images, CONFIG, tmp_path / name, measures=measures)
    plain, tracked = ((tmp_path / name / CHECKPOINT).read_bytes() for name in ("plain", "tracked"))
    assert plain == tracked
    (found,) = {tuple(r["neural-collapse"]) for r in read_metrics(tmp_path / "tracked" / METRICS)}
    assert {"nc1", "nc2_means", "nc2_weights", "nc3", "nc4"} < set(found)
    assert all("neural-collapse" not in r for r in read_metrics(tmp_path / "plain" / METRICS))


def test_a_model_whose_features_are_a_simplex_is_told_to_have_collapsed() -> None:
    # One pixel lit a class, and W = -0.9 I: answers x / 1.9 are one-hot, a simplex once centred.
    cell = ContractiveCell((3,))
    head = LinearHead(3, None, 3)
    with torch.no_grad():
        cell.raw.copy_(-torch.eye(3))
        head.linear.weight.copy_(torch.eye(3) - 1 / 3)
        head.linear.bias.zero_()
    network = ImageModel((1, 1, 3), nn.Flatten(), ImplicitLayer(cell), head).train()
    images = (255 * torch.eye(3)).byte().reshape(3, 1, 1, 3).repeat(4, 1, 1, 1)
    found = NeuralCollapse(network, images, torch.arange(3).repeat(4), batch=5)()
    assert network.training  # as it was
    assert found["nc4"] == 0 and found["minority_cosine"] is None
    for name in ("nc1", "nc2_means", "nc2_weights", "nc3", "nc2_norms"):
        value = found[name]
        assert value is not None and value < 1e-6  # weights are in single precision


def test_the_command_writes_the_measures_to_file_tensorboard_and_figure(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = [*TINY, "--epochs", "2", "--out", str(tmp_path), "--track", "neural-collapse"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    records = read_metrics(tmp_path / METRICS)
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    for name, value in records[-1]["neural-collapse"].items():
        if value is None:
            continue
        last = shown.Scalars(f"neural-collapse/{name}")[-1].value
        assert math.isclose(last, value, rel_tol=1e-6)  # TensorBoard keeps single precision
    assert (tmp_path / "plots" / "collapse.png").stat().st_size > 10_000
    out = tmp_path / "again"
    again = CliRunner().invoke(
        app, ["plot", str(tmp_path), "--kind", "collapse", "--out", str(out)]
    )
    assert again.exit_code == 0 and (out / "collapse.png").exists()


def test_a_run_without_the_measure_and_an_unknown_measure_are_told_in_one_line(
    tmp_path: Path,
) -> None:
    words = [*TINY, "--epochs", "1", "--out", str(tmp_path)]
    wrong = CliRunner().invoke(app, [*words, "--track", "neural-colapse"])
    assert wrong.exit_code == 2 and "Did you mean 'neural-collapse'?" in wrong.output
    assert not (tmp_path / CHECKPOINT).exists()
    assert CliRunner().invoke(app, words).exit_code == 0
    none = CliRunner().invoke(app, ["plot", str(tmp_path), "--kind", "collapse"])
    assert none.exit_code == 2 and "--track neural-collapse" in none.output


def test_the_classifier_of_a_head_is_its_last_affine_map_or_the_head_is_refused() -> None:
    z = torch.randn(2, 4, 6, 6)
    for head in (LinearHead(4, 2, 3), nn.Sequential(nn.Flatten(), nn.Linear(144, 3))):
        features, classifier = readout(head)
        assert torch.equal(classifier(features(z)), head(z))
    with pytest.raises(ValueError, match="LinearHead"):
        readout(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
