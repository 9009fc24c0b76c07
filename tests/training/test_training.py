from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from homotopy_deq import DEQ, ODE, Anderson, HomoODE, Implicit, NeuralODE, Unroll
from homotopy_deq.data import loader
from homotopy_deq.training import (
    CHECKPOINT,
    Diverged,
    Objective,
    TrainConfig,
    accelerator_for,
    evaluate,
    load_checkpoint,
    train,
)
from homotopy_deq.training.optim import cosine
from tests.training.tiny import CONFIG, data, model, run


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(True)  # it keeps the first precision that a process asked for


def test_equal_runs_write_equal_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(tmp_path / name, seed=seed)
    a, b, c = ((tmp_path / name / CHECKPOINT).read_bytes() for name in "abc")
    assert a == b != c


def test_the_test_images_choose_nothing(tmp_path: Path) -> None:
    images = data()
    wrong = replace(images, test_labels=(images.test_labels + 1) % 10)
    found = []
    for name, each in (("right", images), ("wrong", wrong)):
        train(model(each), each, CONFIG, tmp_path / name)
        found.append(load_checkpoint(tmp_path / name / CHECKPOINT))
    assert found[0].meta["best"] == found[1].meta["best"]
    assert all(torch.equal(t, found[1].tensors[k]) for k, t in found[0].tensors.items())


def test_the_model_is_left_with_the_weights_that_were_best_on_validation(tmp_path: Path) -> None:
    images = data()
    network = model(images)
    outcome = train(network, images, replace(CONFIG, epochs=3, lr=0.05), tmp_path)
    best = max(
        outcome.history, key=lambda r: (r["validation"]["accuracy"], -r["validation"]["loss"])
    )
    assert outcome.best == {"epoch": best["epoch"], **best["validation"]}
    stored = load_checkpoint(outcome.checkpoint).under("best")
    assert all(torch.equal(stored[k], v) for k, v in network.state_dict().items())
    batches = loader(images.test_images, images.test_labels, 16, shuffle=False)
    found = evaluate(Objective(network), batches, accelerator_for(CONFIG))
    assert found.accuracy == outcome.test["accuracy"]


def test_the_checkpoint_holds_all_that_a_run_depends_on(tmp_path: Path) -> None:
    run(tmp_path)
    checkpoint = load_checkpoint(tmp_path / CHECKPOINT)
    assert {k.split(".")[0] for k in checkpoint.tensors} == {"model", "best", "task"}
    assert any(k.startswith("initial_point.") for k in checkpoint.under("model"))
    assert any(k.endswith("exp_avg_sq") for k in checkpoint.under("task"))
    assert checkpoint.meta.keys() >= {"about", "rng", "place", "tally", "history", "best", "test"}
    assert checkpoint.meta["about"]["images"]["crc32"]


def test_only_its_own_loss_reaches_the_initial_point() -> None:
    images = data()
    network = model(images)
    point = network.initial_point
    assert point is not None
    objective = Objective(network, residual_weight=0.1, jacobian_weight=0.1)
    batch = images.train_images[:8].float() / 255, images.train_labels[:8]

    def gradients(with_start: bool) -> list[Any]:
        torch.manual_seed(0)
        objective.zero_grad()
        objective(*batch, with_start).loss.backward()
        return [p.grad for p in (*network.task_parameters(), *point.parameters())]

    task = len(network.task_parameters())
    without, with_ = gradients(False), gradients(True)
    assert not any(g.any() for g in without[task:]) and any(g.any() for g in with_[task:])
    assert all(torch.equal(a, b) for a, b in zip(without[:task], with_[:task], strict=True))


def test_the_initial_point_moves_towards_the_answers(tmp_path: Path) -> None:
    images = data()
    network = model(images)
    assert network.initial_point is not None

    def distance() -> float:
        network.eval()
        with torch.no_grad():
            found = network.solve(images.train_images.float() / 255)
            return float(network.initial_point.loss(found.x, found.solution.value))  # type: ignore[union-attr]

    far = distance()
    train(network, images, replace(CONFIG, lr=0.0, start_lr=1.0, start_every=1), tmp_path)
    assert distance() < far


def test_each_epoch_tells_what_the_start_is_worth(tmp_path: Path) -> None:
    images = data()
    network = model(images, DEQ, contraction=0.9, kernel=0, start="input")
    told = [
        record["start"]
        for record in train(network, images, replace(CONFIG, epochs=3), tmp_path).history
    ]
    assert all(each["nfe"] >= 1 and each["nfe_zero"] >= 1 for each in told)
    assert told[-1]["loss"] < told[0]["loss"]
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"start/nfe_zero" in events.read_bytes()
    ends = model(images, DEQ, start="none")
    none = train(ends, images, replace(CONFIG, epochs=1), tmp_path / "none").history[0]
    assert "start" not in none


def test_the_residual_penalty_brings_the_end_of_the_flow_to_rest(tmp_path: Path) -> None:
    images = data()
    residual = []
    for weight in (0.0, 10.0):
        network = model(images, solver=ODE(method="midpoint", step_size=1.0), gradient=Unroll())
        settings = TrainConfig(epochs=3, batch=16, lr=3e-3, residual_penalty=weight)
        outcome = train(network, images, settings, tmp_path / str(weight))
        residual.append(outcome.test["residual_median"])
    assert residual[1] < 0.8 * residual[0]  # 0.6 here: it must be seen, not be large


@pytest.mark.parametrize("kind", [DEQ, NeuralODE])
def test_other_models_train_too(tmp_path: Path, kind: type) -> None:
    images = data()
    settings = {"solver": ODE(method="euler"), "gradient": None} if kind is NeuralODE else {}
    network = model(images, kind, **settings)
    config = TrainConfig(epochs=1, batch=16)
    outcome = train(network, images, config, tmp_path)
    if kind is NeuralODE:
        assert outcome.test["residual_median"] is None  # nothing rests there


def test_bf16_computes_in_half_precision_and_keeps_weights_in_single(tmp_path: Path) -> None:
    images = data()
    network = model(images)
    dtypes = set()
    network.layer.cell.register_forward_hook(lambda *call: dtypes.add(call[2].dtype))
    conv = next(m for m in network.layer.cell.modules() if isinstance(m, nn.Conv2d))
    conv.register_forward_hook(lambda *call: dtypes.add(call[2].dtype))
    train(network, images, TrainConfig(epochs=1, batch=16, precision="bf16"), tmp_path)
    assert torch.bfloat16 in dtypes
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Diverged):
            run(tmp_path, lr=1e30)


def test_weights_that_are_not_finite_are_told_as_divergence_by_unroll_too(tmp_path: Path) -> None:
    images = data()
    network = model(images, gradient=Unroll())
    with torch.no_grad():
        for parameter in network.layer.cell.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(Diverged):
        train(network, images, CONFIG, tmp_path)


def test_the_rate_follows_a_cosine_between_its_ends() -> None:
    rates = [cosine(step, 10, 1e-3, 1e-6) for step in range(11)]
    assert rates[0] == 1e-3 and rates[5] == pytest.approx((1e-3 + 1e-6) / 2)
    assert rates[10] == 1e-6 and rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("field", "value"), [("epochs", 0), ("lr", -1.0), ("validation", 1.0), ("precision", "fp8")]
)
def test_settings_out_of_range_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        TrainConfig(**{field: value})  # type: ignore[arg-type]


def test_a_homoode_weighs_as_much_as_published() -> None:
    assert sum(p.numel() for p in HomoODE(rest_point=False).task_parameters()) == 132_938


def test_approximate_gradients_are_told_once_an_epoch(tmp_path: Path) -> None:
    images = data()
    hurried = Implicit(Anderson(rtol=1e-6, max_steps=1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(model(images, gradient=hurried), images, CONFIG, tmp_path)
    told = [str(w.message) for w in caught if "approximate" in str(w.message)]
    assert len(told) == CONFIG.epochs and "5 batches" in told[0]
