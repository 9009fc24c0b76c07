from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from homotopy_deq import DEQ
from homotopy_deq.adversary import distance, frozen, smoothed
from homotopy_deq.data import load, loader
from homotopy_deq.models import ImageModel
from homotopy_deq.training import (
    CHECKPOINT,
    Objective,
    SmoothTraining,
    Tally,
    TrainConfig,
    accelerator_for,
    evaluate,
    load_checkpoint,
    train,
)
from homotopy_deq.training.smoothing import (
    TEST,
    VALIDATION,
    adversary,
    consistency_loss,
    held_noise,
    noisy,
)
from tests.training.tiny import ALL, CONFIG, At, data, model, run

SEEDS = st.integers(0, 2**31)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(True)  # it keeps the first precision that a process asked for


def batch(n: int = 8) -> tuple[ImageModel, Tensor, Tensor]:
    images = data()
    return model(images, DEQ), images.train_images[:n].float() / 255, images.train_labels[:n]


def test_noise_has_the_stated_standard_deviation_in_input_units_and_is_not_clipped() -> None:
    network, images, labels = batch(64)
    seen = noisy(network, images, labels, SmoothTraining(0.5, samples=4))
    noise = seen - images.repeat(4, 1, 1, 1)
    n = noise.numel()  # 16,384: mean and standard deviation within 5 of their standard errors
    assert abs(float(noise.mean())) < 5 * 0.5 / math.sqrt(n)
    assert abs(float(noise.std()) - 0.5) < 5 * 0.5 / math.sqrt(2 * n)
    assert float(seen.min()) < -0.5 and float(seen.max()) > 1.5


def seen_in(folder: Path, *observers: Any, seed: int = 0, resume: bool = False) -> list[Tensor]:
    """Train, and return what the model was shown in train mode."""
    images, shown = data(), []
    network = model(images)

    def note(module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        if module.training:
            shown.append(given[0].clone())

    network.normalize.register_forward_pre_hook(note)
    config = replace(CONFIG, smoothing=SmoothTraining(0.25), seed=seed)
    with contextlib.suppress(MemoryError):
        train(network, images, config, folder, observers=observers, resume=resume)
    return shown


def test_the_same_seed_epoch_and_batch_give_the_same_noise_and_others_do_not(
    tmp_path: Path,
) -> None:
    def crash() -> None:
        raise MemoryError

    whole = seen_in(tmp_path / "whole")
    parts = seen_in(tmp_path / "parts", At(7, crash)) + seen_in(tmp_path / "parts", resume=True)
    again = [*whole[:7], *whole[6:]]  # stopped between a step and its checkpoint
    assert len(whole) == 10 and len(parts) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    images = data().train_images.float().div(255).flatten(1)
    for shown in (whole[0], whole[1], seen_in(tmp_path / "other", seed=1)[0]):
        assert float(torch.cdist(shown.flatten(1), images).min()) > 1  # 0.25 sqrt(64) = 2
    assert not any(torch.equal(whole[0], other) for other in whole[1:])


def test_without_smoothing_training_is_what_it_was(tmp_path: Path) -> None:
    network, images, labels = batch()
    plain, also = Objective(network), Objective(network, smoothing=None)
    torch.manual_seed(1)
    first = plain(images, labels).loss
    torch.manual_seed(1)
    assert torch.equal(first, also(images, labels).loss)
    assert "noisy_test" not in load_checkpoint(run_once(tmp_path)).meta


def run_once(folder: Path, **changes: Any) -> Path:
    run(folder, **{"epochs": 1, **changes})
    return folder / CHECKPOINT


def test_noise_alone_is_cross_entropy_on_noisy_images() -> None:
    network, images, labels = batch()
    for module in network.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    objective = Objective(network, smoothing=SmoothTraining(0.25, samples=2))
    torch.manual_seed(1)
    found = objective(images, labels)
    torch.manual_seed(1)
    many = images.repeat(2, 1, 1, 1)
    logits = network.solve(many + 0.25 * torch.randn(many.shape)).logits
    loss = F.cross_entropy(logits, labels.repeat(2))
    torch.testing.assert_close(found.loss, loss)
    mean = logits.softmax(1).reshape(2, len(labels), -1).mean(0)
    torch.testing.assert_close(found.logits.exp(), mean)
    assert Tally.sums(found, labels)[0] == len(labels)  # images are counted, not their draws
    assert {len(column) for column in found[1:]} == {len(labels)}


def test_outside_training_the_objective_adds_no_noise() -> None:
    network, images, labels = batch()
    plain = Objective(network).eval()(images, labels)
    found = Objective(network, smoothing=ALL).eval()(images, labels)
    assert torch.equal(plain.logits, found.logits)


@pytest.mark.parametrize("samples", [1, 3])
def test_the_adversary_stays_in_its_ball_and_does_more_than_a_random_step(samples: int) -> None:
    network, images, labels = batch(32)
    smoothing = SmoothTraining(0.25, samples=samples, adversary_steps=4, adversary_radius=0.5)
    noise = 0.25 * torch.randn_like(images.repeat(samples, 1, 1, 1))
    moved = adversary(network, images, labels, noise, smoothing)
    far = distance(moved, images)
    assert bool((far <= 0.5).all()) and float(far.min()) > 0.4  # the loss rises to the sphere
    aside = torch.randn(images.shape)
    aside *= (far / aside.flatten(1).norm(dim=1)).float()[:, None, None, None]

    def loss(points: Tensor) -> Tensor:
        with torch.no_grad(), frozen(network):
            logits = network.solve(points.repeat(samples, 1, 1, 1) + noise).logits
        return F.nll_loss(smoothed(logits, samples), labels, reduction="none")

    # Four steps of a fixed length climb the mean over the batch; one sample may step over its top.
    for other in (images, images + aside):
        rise = loss(moved) - loss(other)
        assert float(rise.mean()) > 0 and int((rise > 0).sum()) >= 30


def test_the_noise_of_the_attack_is_the_noise_of_the_step() -> None:
    network, images, labels = batch()
    smoothing = SmoothTraining(0.25, samples=2, adversary_steps=2, adversary_radius=0.5)
    torch.manual_seed(1)
    seen = noisy(network, images, labels, smoothing)
    torch.manual_seed(1)
    noise = 0.25 * torch.randn(16, *images.shape[1:])
    moved = adversary(network, images, labels, noise, smoothing)
    assert torch.equal(seen, moved.repeat(2, 1, 1, 1) + noise)


def test_the_adversary_leaves_the_model_as_it_was() -> None:
    network, images, labels = batch()
    network.train()
    network.head.eval()
    fixed = next(network.parameters()).requires_grad_(False)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    smoothing = SmoothTraining(0.25, adversary_steps=1, adversary_radius=0.5)
    adversary(network, images, labels, torch.zeros_like(images), smoothing)
    assert network.training and network.stem.training and not network.head.training
    assert all(p.requires_grad != (p is fixed) for p in network.parameters())
    assert all(p.grad is None for p in network.parameters())
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


@given(seed=SEEDS, draws=st.integers(2, 4), weight=st.floats(0, 20), entropy=st.floats(0, 2))
def test_consistency_is_divergence_from_the_mean_and_its_entropy(
    seed: int, draws: int, weight: float, entropy: float
) -> None:
    torch.manual_seed(seed)
    logits = 3 * torch.randn(draws * 5, 4, dtype=torch.float64)
    each = logits.softmax(1).reshape(draws, 5, 4)
    mean = each.mean(0)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Categorical(mean.expand_as(each)), torch.distributions.Categorical(each)
    )
    expected = weight * kl.mean(0) + entropy * torch.distributions.Categorical(mean).entropy()
    found = consistency_loss(logits, draws, weight, entropy)
    torch.testing.assert_close(found.double(), expected.mean(), rtol=1e-4, atol=1e-5)  # in float32


@given(seed=SEEDS, draws=st.integers(2, 4))
def test_consistency_is_zero_when_all_draws_agree_and_positive_when_they_do_not(
    seed: int, draws: int
) -> None:
    torch.manual_seed(seed)
    same = torch.randn(5, 4).repeat(draws, 1)
    assert abs(float(consistency_loss(same, draws, 1.0, 0.0))) < 1e-6
    sure = F.one_hot(torch.arange(4), 4).float().mul(100).repeat(draws, 1)
    assert abs(float(consistency_loss(sure, draws, 1.0, 1.0))) < 1e-6  # nor has it an entropy
    apart = same.clone()
    apart[0, 0] += 1
    assert float(consistency_loss(apart, draws, 1.0, 0.0)) > 1e-4


def test_consistency_reaches_the_loss_of_a_step() -> None:
    network, images, labels = batch()
    found = []
    for weight in (0.0, 10.0):
        torch.manual_seed(1)
        smoothing = SmoothTraining(0.5, samples=2, consistency=weight)
        found.append(Objective(network, smoothing=smoothing)(images, labels).loss.item())
    assert found[1] > found[0]


def test_validation_noise_is_one_draw_that_depends_on_seed_and_part_alone() -> None:
    images = data().train_images
    found = held_noise(images, 0.25, 3, TEST)
    assert torch.equal(found, held_noise(images, 0.25, 3, TEST))
    assert torch.equal(found[:7], held_noise(images[:7], 0.25, 3, TEST))
    assert not torch.equal(found, held_noise(images, 0.25, 3, VALIDATION))
    assert not torch.equal(found, held_noise(images, 0.25, 4, TEST))
    assert float((found / 255 - images.float() / 255).std()) == pytest.approx(0.25, rel=0.05)


def test_the_figures_are_clean_and_noisy_and_the_best_epoch_is_chosen_under_noise(
    tmp_path: Path,
) -> None:
    images = data()
    network = model(images)
    config = replace(CONFIG, smoothing=SmoothTraining(2.0))
    outcome = train(network, images, config, tmp_path)
    assert outcome.noisy is not None
    accelerator = accelerator_for(config)
    for part, figures in ((images.test_images, outcome.test), (None, outcome.noisy)):
        shown = held_noise(images.test_images, 2.0, 0, TEST) if part is None else part
        batches = loader(shown, images.test_labels, 16, shuffle=False)
        found = evaluate(Objective(network), batches, accelerator)
        assert found.loss == pytest.approx(figures["loss"], rel=1e-5)
    assert outcome.noisy["loss"] != outcome.test["loss"]
    assert load_checkpoint(tmp_path / CHECKPOINT).meta["noisy_test"] == outcome.noisy


@pytest.mark.slow
def test_a_model_trained_under_noise_classifies_noisy_digits_better(tmp_path: Path) -> None:
    images = load("digits")
    accuracy = []
    for smoothing in (None, SmoothTraining(0.5)):
        network = model(images, DEQ, hidden=16, head=32, pool=2)
        config = TrainConfig(epochs=4, lr=3e-3, smoothing=smoothing)
        train(network, images, config, tmp_path / str(smoothing is None))
        shown = held_noise(images.test_images, 0.5, 5, TEST)
        batches = loader(shown, images.test_labels, 256, shuffle=False)
        accuracy.append(evaluate(Objective(network), batches, accelerator_for(config)).accuracy)
    assert accuracy[1] > accuracy[0] + 0.1
